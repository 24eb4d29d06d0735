// SPDX-License-Identifier: Apache-2.0

//! Schedulers, a model and comparisons for the tests.
#![allow(dead_code)]

use diffusion_scheduling::{Noise, Result, Scheduler, Session, StepOptions};

pub const DEIS: &str = r#"{"_class_name": "DEISMultistepScheduler", "solver_order": 3}"#;
pub const DDIM: &str = r#"{"_class_name": "DDIMScheduler"}"#;
pub const UNIPC: &str = r#"{"_class_name": "UniPCMultistepScheduler", "solver_order": 3}"#;
pub const EULER: &str = r#"{"_class_name": "EulerDiscreteScheduler"}"#;
pub const STOCHASTIC: &str = r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}"#;
pub const THRESHOLDED: &str = r#"{"_class_name": "DPMSolverMultistepScheduler", "thresholding": true, "sample_max_value": 1e6}"#;
pub const LEARNED: &str = r#"{"_class_name": "DDPMScheduler", "variance_type": "learned_range"}"#;

/// A scheduler of a configuration, with timesteps set.
pub fn planned(json: &str, steps: usize) -> Scheduler {
    let mut scheduler = Scheduler::from_json(None, json).unwrap();
    scheduler.set_timesteps(steps).unwrap();
    scheduler
}

/// Noise from a seed.
pub fn normals(count: usize, seed: u64) -> Vec<f32> {
    let mut values = vec![0f32; count];
    Noise::torch_cpu(seed).unwrap().fill(&mut values).unwrap();
    values
}

/// A stand-in for a model: smooth, and different for every element and timestep.
pub fn model(x: &[f32], timestep: f64) -> Vec<f32> {
    let share = (timestep / 1000.0) as f32;
    x.iter()
        .enumerate()
        .map(|(i, x)| (x * 0.7 + share + (i % 7) as f32 * 0.01).tanh())
        .collect()
}

/// The samples after the remaining steps of a session; the step's index seeds the noise.
pub fn run(session: &mut Session, mut x: Vec<f32>) -> Result<Vec<f32>> {
    while let Some(timestep) = session.timestep() {
        step(session, timestep, &mut x)?;
    }
    Ok(x)
}

pub fn step(session: &mut Session, timestep: f64, x: &mut [f32]) -> Result<()> {
    let e = model(x, timestep);
    let z = normals(x.len(), 1_000 + session.step_index() as u64);
    if session.needs_noise() {
        session.step_with(&e, x, StepOptions::new().noise(&z))
    } else {
        session.step(&e, x)
    }
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

pub fn assert_same_bits(found: &[f32], expected: &[f32]) {
    assert_eq!(bits(found), bits(expected));
}

// SPDX-License-Identifier: Apache-2.0

//! Turns noise into points on a ring, with DPM-Solver++ in 20 steps, and draws them: Examples/C/sample.c in Rust, with its output.
//!
//! The model is exact: for data that are K points, the clean sample that a perfect model predicts is their mean, weighted by each
//! point's probability of having become the noisy sample.

use std::fmt::Write;
use std::process::ExitCode;

use diffusion_scheduling::{runtime_description, Noise, Result, Scheduler};

const SAMPLES: usize = 400;
const POINTS: usize = 12;
const STEPS: usize = 20;

const CONFIGURATION: &str = r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 2, "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "beta_end": 0.012, "use_karras_sigmas": true}"#;

fn main() -> ExitCode {
    let samples = match sample() {
        Ok(samples) => samples,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    print!("{}", report(&samples));
    if farthest(&samples) < 0.1 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The samples, x and y of each.
pub fn sample() -> Result<Vec<f32>> {
    let mut scheduler = Scheduler::from_json(None, CONFIGURATION)?;
    scheduler.set_timesteps(STEPS)?;
    let plan = scheduler.plan()?;
    let (signal_rates, noise_rates) = (plan.signal_rates(), plan.noise_rates());

    let mut x = vec![0f32; 2 * SAMPLES];
    Noise::torch_cpu(42)?.fill(&mut x)?; // init_noise_sigma is 1 for this scheduler

    let ring = ring();
    let mut session = scheduler.session()?;
    while session.timestep().is_some() {
        // A trained model would get the timestep.
        let step = session.step_index();
        let e = model(&ring, &x, signal_rates[step], noise_rates[step]);
        session.step(&e, &mut x)?;
    }
    Ok(x)
}

type Point = [f32; 2];

/// The data.
fn ring() -> [Point; POINTS] {
    std::array::from_fn(|k| {
        let turn = std::f64::consts::TAU * k as f64 / POINTS as f64;
        [turn.cos() as f32, turn.sin() as f32]
    })
}

/// The noise in each sample; a sample is signal_rate · data + noise_rate · noise.
fn model(ring: &[Point], samples: &[f32], signal_rate: f64, noise_rate: f64) -> Vec<f32> {
    let mut noise = Vec::with_capacity(samples.len());
    for x in samples.chunks_exact(2) {
        let mut distances = [0f64; POINTS];
        let mut nearest = f64::INFINITY;
        for (point, distance) in ring.iter().zip(&mut distances) {
            let dx = f64::from(x[0]) - signal_rate * f64::from(point[0]);
            let dy = f64::from(x[1]) - signal_rate * f64::from(point[1]);
            *distance = (dx * dx + dy * dy) / (2.0 * noise_rate * noise_rate);
            nearest = nearest.min(*distance);
        }
        let (mut total, mut clean) = (0f64, [0f64; 2]);
        for (point, distance) in ring.iter().zip(&distances) {
            let weight = (nearest - distance).exp();
            clean[0] += weight * f64::from(point[0]);
            clean[1] += weight * f64::from(point[1]);
            total += weight;
        }
        for (x, clean) in x.iter().zip(clean) {
            noise.push(((f64::from(*x) - signal_rate * clean / total) / noise_rate) as f32);
        }
    }
    noise
}

/// The largest distance of a sample from its point.
fn farthest(samples: &[f32]) -> f64 {
    let ring = ring();
    let distance = |x: &[f32], point: &Point| f64::from(x[0] - point[0]).hypot(f64::from(x[1] - point[1]));
    let nearest = |x: &[f32]| ring.iter().map(|point| distance(x, point)).fold(f64::INFINITY, f64::min);
    samples.chunks_exact(2).map(nearest).fold(0.0, f64::max)
}

/// FNV-1a of the samples' bytes.
pub fn checksum(samples: &[f32]) -> u64 {
    let bytes = samples.iter().flat_map(|x| x.to_ne_bytes());
    bytes.fold(0xCBF2_9CE4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
    })
}

/// A picture of the samples, and their statistics.
pub fn report(samples: &[f32]) -> String {
    const WIDTH: usize = 49;
    const HEIGHT: usize = 25;
    let place = |offset: f32, size: usize| {
        let place = (f64::from(offset) / 2.4 * (size - 1) as f64).round();
        (place >= 0.0 && place < size as f64).then_some(place as usize)
    };
    let mut picture = [[' '; WIDTH]; HEIGHT];
    for x in samples.chunks_exact(2) {
        if let (Some(column), Some(row)) = (place(x[0] + 1.2, WIDTH), place(1.2 - x[1], HEIGHT)) {
            picture[row][column] = '*';
        }
    }
    let mut text: String = picture.iter().flat_map(|row| row.iter().copied().chain(['\n'])).collect();
    let farthest = farthest(samples);
    let _ = writeln!(
        text,
        "{SAMPLES} samples in {STEPS} steps; the farthest is {farthest:.4} from its point"
    );
    let _ = writeln!(
        text,
        "checksum: {:016x}\nthreads: {}",
        checksum(samples),
        runtime_description()
    );
    text
}

// SPDX-License-Identifier: Apache-2.0

//! Tensors of 16-bit types, with the feature half-types.
#![cfg(feature = "half-types")]

mod common;

use common::*;
use diffusion_scheduling::*;

const COUNT: usize = 64;

/// The largest distance of a whole run in halves from the float32 run.
fn distance<H: Element>(narrow: fn(f32) -> H, widen: fn(H) -> f32) -> f32 {
    let scheduler = planned(DEIS, 8);
    let expected = run(&mut scheduler.session().unwrap(), normals(COUNT, 1)).unwrap();
    let mut x: Vec<H> = normals(COUNT, 1).into_iter().map(narrow).collect();
    let mut session = scheduler.session().unwrap();
    while let Some(timestep) = session.timestep() {
        let wide: Vec<f32> = x.iter().copied().map(widen).collect();
        let e: Vec<H> = model(&wide, timestep).into_iter().map(narrow).collect();
        session.step(&e, &mut x).unwrap();
    }
    x.into_iter()
        .map(widen)
        .zip(expected)
        .map(|(x, expected)| (x - expected).abs() / (1.0 + expected.abs()))
        .fold(0.0, f32::max)
}

#[test]
fn runs_with_halves_are_near_to_runs_with_float32() {
    let half = distance(F16::from_f32, F16::to_f32);
    assert!(half > 0.0 && half < 0.02, "{half}");
    let brain = distance(Bf16::from_f32, Bf16::to_f32);
    assert!(brain > 0.0 && brain < 0.15, "{brain}");
}

#[test]
fn outputs_of_half_precision_step_float32_samples() {
    let scheduler = planned(DEIS, 4);
    let e: Vec<F16> = normals(COUNT, 2).into_iter().map(F16::from_f32).collect();
    let wide: Vec<f32> = e.iter().map(|e| f32::from(*e)).collect();
    let (mut x, mut y) = (normals(COUNT, 3), normals(COUNT, 3));
    scheduler.session().unwrap().step(&e, &mut x).unwrap();
    scheduler.session().unwrap().step(&wide, &mut y).unwrap();
    assert_same_bits(&x, &y);
}

#[test]
fn bits_of_other_crates_step_without_a_copy() {
    let scheduler = planned(DDIM, 4);
    let e: Vec<u16> = normals(COUNT, 4).into_iter().map(|e| Bf16::from_f32(e).to_bits()).collect();
    let mut x: Vec<u16> = normals(COUNT, 5).into_iter().map(|x| Bf16::from_f32(x).to_bits()).collect();
    let before = x.clone();
    scheduler
        .session()
        .unwrap()
        .step(Bf16::slice_of_bits(&e), Bf16::slice_of_bits_mut(&mut x))
        .unwrap();
    assert_ne!(x, before);
}

#[test]
fn noise_has_no_halves() {
    let error = Noise::torch_cpu(1).unwrap().fill(&mut [F16::default(); 4]).unwrap_err();
    assert!(matches!(error, Error::WrongElementType(_)), "{error:?}");
    assert!(error.to_string().contains("float32 or float64"), "{error}");
}

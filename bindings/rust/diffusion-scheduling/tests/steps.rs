// SPDX-License-Identifier: Apache-2.0

//! All forms of steps end with the same bits.

mod common;

use common::*;
use diffusion_scheduling::*;

const COUNT: usize = 2 * 3 * 8;
const SHAPE: [usize; 3] = [2, 3, 8];
const ALL: [&str; 6] = [DEIS, DDIM, UNIPC, EULER, STOCHASTIC, THRESHOLDED];

#[test]
fn prepared_rows_have_the_bits_of_a_session() {
    for json in ALL {
        let scheduler = planned(json, 11);
        let x = normals(COUNT, 1);
        let expected = run(&mut scheduler.session().unwrap(), x.clone()).unwrap();

        let plan = scheduler.plan().unwrap();
        let rows = plan.prepared_rows().unwrap();
        let timesteps = plan.timesteps();
        let mut slots = vec![vec![0f32; COUNT]; plan.slot_count()];
        let (mut in_place, mut apart, mut kept) = (x.clone(), x.clone(), x);
        let mut kept_slots = slots.clone();
        let mut apart_slots = slots.clone();
        for (index, row) in rows.iter().enumerate() {
            let e = model(&in_place, timesteps[index]);
            let z = normals(COUNT, 1_000 + index as u64);
            let noise = || StepOptions::new().noise(&z);
            row.step_with(&e, &mut in_place, &mut slots, noise()).unwrap();

            let mut next = vec![0f32; COUNT];
            row.step_with(&e, (&apart, &mut next), &mut apart_slots, noise()).unwrap();
            apart = next;

            // Stores go to separate memory, and become slots afterwards.
            let mut stores = vec![vec![0f32; COUNT]; row.store_count()];
            row.step_apart(&e, &mut kept, &kept_slots, &mut stores, noise()).unwrap();
            let stored = plan.row(index, index).unwrap().stores;
            assert_eq!(stored.len(), row.store_count());
            for (store, memory) in stored.iter().zip(stores) {
                kept_slots[store.slot] = memory;
            }
        }
        for found in [in_place, apart, kept] {
            assert_same_bits(&found, &expected);
        }
    }
}

#[test]
fn in_place_apart_and_with_shapes_are_the_same() {
    for json in ALL {
        let scheduler = planned(json, 5);
        let x = normals(COUNT, 2);
        let shaped = |mut x: Vec<f32>| {
            let mut session = scheduler.session().unwrap();
            while let Some(timestep) = session.timestep() {
                let (e, z) = (model(&x, timestep), normals(COUNT, session.step_index() as u64));
                let options = StepOptions::new().noise(Tensor::new(&z, &SHAPE).unwrap());
                session
                    .step_with(
                        Tensor::new(&e, &SHAPE).unwrap(),
                        TensorMut::new(&mut x, &SHAPE).unwrap(),
                        options,
                    )
                    .unwrap();
            }
            x
        };
        // Slices take the sample's shape, which only the input states here.
        let partly = |mut x: Vec<f32>| {
            let mut session = scheduler.session().unwrap();
            while let Some(timestep) = session.timestep() {
                let (e, z) = (model(&x, timestep), normals(COUNT, session.step_index() as u64));
                let mut next = [0f32; COUNT];
                let mut report = vec![0f32; COUNT];
                let input = Tensor::new(&x, &SHAPE).unwrap();
                session
                    .step_with(&e, (input, &mut next), StepOptions::new().noise(&z).report(&mut report))
                    .unwrap();
                assert!(report.iter().any(|value| *value != 0.0));
                x.copy_from_slice(&next);
            }
            x
        };
        assert_same_bits(&partly(x.clone()), &shaped(x));
    }
}

#[test]
fn batch_items_matter_for_thresholds() {
    let scheduler = planned(THRESHOLDED, 3);
    let (mut x, mut y) = (normals(COUNT, 3), normals(COUNT, 3));
    // The second item is larger than the first, so a threshold over both differs from each item's own.
    x[COUNT / 2..].iter_mut().for_each(|x| *x *= 30.0);
    y.copy_from_slice(&x);
    let e = normals(COUNT, 4);
    scheduler
        .session()
        .unwrap()
        .step(&e, TensorMut::new(&mut x, &[2, COUNT / 2]).unwrap())
        .unwrap();
    scheduler.session().unwrap().step(&e, &mut y).unwrap();
    assert_ne!(bits(&x), bits(&y));
}

#[test]
fn inputs_of_the_model_come_with_a_step() {
    let scheduler = planned(EULER, 6);
    let mut x: Vec<f32> = normals(COUNT, 5)
        .iter()
        .map(|x| x * scheduler.init_noise_sigma() as f32)
        .collect();
    let mut input = vec![0f32; COUNT];
    scheduler
        .scale_model_input((&x, &mut input), scheduler.timesteps()[0])
        .unwrap();
    let mut session = scheduler.session().unwrap();
    while let Some(timestep) = session.timestep() {
        let e = model(&input, timestep);
        session.step_with_input(&e, &mut x, &mut input, StepOptions::new()).unwrap();
        let mut expected = x.clone();
        if let Some(timestep) = session.timestep() {
            scheduler.scale_model_input(&mut expected, timestep).unwrap();
        }
        for (found, expected) in input.iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= 2.0 * f32::EPSILON * expected.abs(),
                "{found} for {expected}"
            );
        }
    }
}

#[test]
fn guided_steps_are_steps_with_guided_outputs() {
    let scheduler = planned(DEIS, 4);
    let (c, u) = (normals(COUNT, 6), normals(COUNT, 7));
    let (mut x, mut y) = (normals(COUNT, 8), normals(COUNT, 8));
    let (mut guided, mut plain) = (scheduler.session().unwrap(), scheduler.session().unwrap());
    while guided.timestep().is_some() {
        guided
            .step_guided(&c, &u, Guidance::new(7.5), &mut x, StepOptions::new())
            .unwrap();
        let e: Vec<f32> = c.iter().zip(&u).map(|(c, u)| u + 7.5 * (c - u)).collect();
        plain.step(&e, &mut y).unwrap();
    }
    for (x, y) in x.iter().zip(&y) {
        assert!((x - y).abs() < 1e-4 * (1.0 + y.abs()), "{x} for {y}");
    }
    // A scale of 1 uses the conditional output alone.
    let (mut x, mut y) = (normals(COUNT, 8), normals(COUNT, 8));
    scheduler
        .session()
        .unwrap()
        .step_guided(&c, &u, Guidance::new(1.0), &mut x, StepOptions::new())
        .unwrap();
    scheduler.session().unwrap().step(&c, &mut y).unwrap();
    assert_same_bits(&x, &y);
}

#[test]
fn rescaled_guidance_is_that_of_the_function() {
    let scheduler = planned(DDIM, 4);
    let (c, u) = (normals(COUNT, 9), normals(COUNT, 10));
    let mut e: Vec<f64> = c
        .iter()
        .zip(&u)
        .map(|(c, u)| f64::from(*u) + 3.0 * (f64::from(*c) - f64::from(*u)))
        .collect();
    let wide: Vec<f64> = c.iter().map(|c| f64::from(*c)).collect();
    rescale_noise_cfg(TensorMut::new(&mut e, &SHAPE).unwrap(), &wide, 0.7).unwrap();
    let (mut x, mut y) = (normals(COUNT, 11), normals(COUNT, 11));
    let shaped = TensorMut::new(&mut x, &SHAPE).unwrap();
    scheduler
        .session()
        .unwrap()
        .step_guided(&c, &u, Guidance::rescaled(3.0, 0.7), shaped, StepOptions::new())
        .unwrap();
    scheduler.session().unwrap().step(&e, &mut y).unwrap();
    for (x, y) in x.iter().zip(&y) {
        assert!((x - y).abs() <= 4.0 * f32::EPSILON * (1.0 + y.abs()), "{x} for {y}");
    }
}

#[test]
fn sessions_of_a_batch_have_the_bits_of_each_alone() {
    const WIDTH: usize = 24;
    let schedulers = [planned(DEIS, 9), planned(STOCHASTIC, 5), planned(UNIPC, 7)];
    let begins = [0, 2, 3];
    let start: Vec<Vec<f32>> = (0..3).map(|row| normals(WIDTH, 20 + row)).collect();

    let alone: Vec<Vec<f32>> = (0..3)
        .map(|row| run(&mut schedulers[row].session_from(begins[row]).unwrap(), start[row].clone()).unwrap())
        .collect();

    // A free row stands between two used ones; finished sessions leave.
    let mut rows: Vec<Option<Session>> = vec![
        Some(schedulers[0].session_from(begins[0]).unwrap()),
        None,
        Some(schedulers[1].session_from(begins[1]).unwrap()),
        Some(schedulers[2].session_from(begins[2]).unwrap()),
    ];
    let untouched = vec![f32::NAN; WIDTH];
    let mut batch = [&start[0][..], &untouched, &start[1], &start[2]].concat();
    let guidance = [Guidance::new(1.0); 4];
    while rows.iter().flatten().next().is_some() {
        let (mut e, mut z) = (vec![0f32; 4 * WIDTH], vec![0f32; 4 * WIDTH]);
        for (row, session) in rows.iter().enumerate() {
            if let Some(session) = session {
                let place = row * WIDTH..(row + 1) * WIDTH;
                e[place.clone()].copy_from_slice(&model(&batch[place.clone()], session.timestep().unwrap()));
                z[place].copy_from_slice(&normals(WIDTH, 1_000 + session.step_index() as u64));
            }
        }
        let options = StepOptions::new().noise(&z);
        let is_even = rows[0].as_ref().map_or(0, Session::step_index) % 2 == 0;
        if is_even {
            step_sessions(&mut rows, &e, &mut batch, options).unwrap();
        } else {
            // Borrowed sessions, a shape, and guidance without effect.
            let mut borrowed: Vec<Option<&mut Session>> = rows.iter_mut().map(Option::as_mut).collect();
            let sample = TensorMut::new(&mut batch, &[4, 2, WIDTH / 2]).unwrap();
            step_sessions_guided(&mut borrowed, &e, &e, &guidance, sample, options).unwrap();
        }
        for row in &mut rows {
            if row.as_ref().map_or(false, |session| session.timestep().is_none()) {
                *row = None;
            }
        }
    }
    for (row, alone) in [0, 2, 3].iter().zip(&alone) {
        assert_same_bits(&batch[row * WIDTH..(row + 1) * WIDTH], alone);
    }
    assert!(batch[WIDTH..2 * WIDTH].iter().all(|x| x.is_nan()));

    step_sessions(
        &mut [] as &mut [Session],
        &[] as &[f32],
        &mut [] as &mut [f32],
        StepOptions::new(),
    )
    .unwrap();
}

#[test]
fn saved_sessions_continue_with_the_same_bits() {
    for json in ALL {
        let scheduler = planned(json, 9);
        let expected = run(&mut scheduler.session().unwrap(), normals(COUNT, 12)).unwrap();
        let mut session = scheduler.session().unwrap();
        let mut x = normals(COUNT, 12);
        for _ in 0..4 {
            let timestep = session.timestep().unwrap();
            step(&mut session, timestep, &mut x).unwrap();
        }
        let saved = session.save();
        let plan = scheduler.plan().unwrap().json();
        drop(session);
        drop(scheduler);
        // The state is restored with another scheduler of the same configuration, and without a scheduler.
        let mut others = vec![planned(json, 9).restore(&saved).unwrap()];
        others.push(Session::on_plan(&plan, 0).unwrap().restore_like(&saved).unwrap());
        others.push(others[0].try_clone().unwrap());
        for mut session in others {
            assert_eq!(session.step_index(), 4);
            assert_same_bits(&run(&mut session, x.clone()).unwrap(), &expected);
            assert_eq!((session.timestep(), session.needs_noise()), (None, false));
            session.reset();
            assert_same_bits(&run(&mut session, normals(COUNT, 12)).unwrap(), &expected);
        }
    }
}

#[test]
fn models_may_predict_variances() {
    let scheduler = planned(LEARNED, 4);
    assert!(scheduler.plan().unwrap().learns_variance());
    let (e, z) = (normals(2 * COUNT, 13), normals(COUNT, 14));
    let mut x = normals(COUNT, 15);
    let mut session = scheduler.session().unwrap();
    let doubled = Tensor::new(&e, &[2, 6, 8]).unwrap();
    session
        .step_with(doubled, TensorMut::new(&mut x, &SHAPE).unwrap(), StepOptions::new().noise(&z))
        .unwrap();
    // One axis: prediction and variance of one item.
    let mut y = normals(COUNT, 15);
    scheduler
        .session()
        .unwrap()
        .step_with(&e, &mut y, StepOptions::new().noise(&z))
        .unwrap();
    assert!(x.iter().chain(&y).all(|x| x.is_finite()));
}

#[test]
fn element_types_may_be_mixed() {
    let scheduler = planned(DEIS, 4);
    let e: Vec<f64> = normals(COUNT, 16).iter().map(|e| f64::from(*e)).collect();
    let narrow: Vec<f32> = e.iter().map(|e| *e as f32).collect();
    let (mut x, mut y) = (normals(COUNT, 17), normals(COUNT, 17));
    scheduler.session().unwrap().step(&e, &mut x).unwrap();
    scheduler.session().unwrap().step(&narrow, &mut y).unwrap();
    // Both are the exact result rounded, up to the rounding of the coefficients.
    for (x, y) in x.iter().zip(&y) {
        assert!((x - y).abs() <= 2.0 * f32::EPSILON * y.abs().max(1.0), "{x} for {y}");
    }
}

#[test]
fn noise_is_added_at_timesteps() {
    let scheduler = Scheduler::from_json(None, DDIM).unwrap();
    let (x, z) = (normals(COUNT, 18), normals(COUNT, 19));
    let variances = scheduler.alphas_cumprod();
    let at = |timestep: usize| (variances[timestep].sqrt(), (1.0 - variances[timestep]).sqrt());

    let mut one = vec![0f32; COUNT];
    scheduler.add_noise((&x, &mut one), &z, &[300.0]).unwrap();
    let mut each = x.clone();
    scheduler
        .add_noise(TensorMut::new(&mut each, &SHAPE).unwrap(), &z, &[300.0, 700.0])
        .unwrap();
    assert_same_bits(&each[..COUNT / 2], &one[..COUNT / 2]);
    assert_ne!(bits(&each[COUNT / 2..]), bits(&one[COUNT / 2..]));

    let (signal, noise) = at(300);
    let mut combined = x.clone();
    combine_noise(&mut combined, &z, &[signal], &[noise]).unwrap();
    let mut velocity = x.clone();
    scheduler.velocity(&mut velocity, &z, &[300.0]).unwrap();
    for i in 0..COUNT {
        assert!((combined[i] - one[i]).abs() < 1e-6);
        assert!((f64::from(velocity[i]) - (signal * f64::from(z[i]) - noise * f64::from(x[i]))).abs() < 1e-6);
    }
}

#[test]
fn empty_tensors_and_scalars_are_tensors() {
    let scheduler = planned(DDIM, 2);
    let mut nothing: Vec<f32> = Vec::new();
    scheduler.session().unwrap().step(&[] as &[f32; 0], &mut nothing).unwrap();
    let (e, mut x) = ([0.5f32], [1f32]);
    scheduler
        .session()
        .unwrap()
        .step(Tensor::new(&e, &[]).unwrap(), TensorMut::new(&mut x, &[]).unwrap())
        .unwrap();
    assert_ne!(x, [1.0]);
}

#[test]
fn threads_of_a_call_change_nothing() {
    let scheduler = planned(DEIS, 3);
    let count = 1 << 18;
    let e = normals(count, 30);
    let results: Vec<Vec<f32>> = [0, 1, 2]
        .map(|limit| {
            set_max_threads(limit);
            assert_eq!(max_threads(), limit);
            let mut x = normals(count, 31);
            scheduler.session().unwrap().step(&e, &mut x).unwrap();
            x
        })
        .to_vec();
    set_max_threads(0);
    assert_same_bits(&results[1], &results[0]);
    assert_same_bits(&results[2], &results[0]);
    assert_eq!(std::thread::spawn(max_threads).join().unwrap(), 0);
}

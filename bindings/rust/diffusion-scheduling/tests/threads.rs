// SPDX-License-Identifier: Apache-2.0

//! One scheduler, one plan and one row for many threads.

mod common;

use std::sync::Arc;
use std::thread;

use common::*;
use diffusion_scheduling::*;

const COUNT: usize = 96;

#[test]
fn objects_go_where_the_header_lets_them() {
    fn send<T: Send>() {}
    fn share<T: Send + Sync>() {}
    share::<Scheduler>();
    share::<Plan<'_>>();
    share::<Row>();
    share::<PreparedRow>();
    share::<Error>();
    share::<Tensor<'_, f32>>();
    share::<TensorMut<'_, f64>>();
    send::<Session>();
    send::<Noise>();
}

#[test]
fn threads_share_a_scheduler() {
    let scheduler = planned(UNIPC, 12);
    let expected = run(&mut scheduler.session().unwrap(), normals(COUNT, 1)).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                set_max_threads(1);
                for _ in 0..20 {
                    let mut session = scheduler.session().unwrap();
                    assert_same_bits(&run(&mut session, normals(COUNT, 1)).unwrap(), &expected);
                }
            });
        }
    });
}

#[test]
fn threads_share_rows() {
    let scheduler = planned(DEIS, 10);
    let expected = run(&mut scheduler.session().unwrap(), normals(COUNT, 2)).unwrap();
    let plan = scheduler.plan().unwrap();
    let (rows, timesteps, slot_count) = (Arc::new(plan.prepared_rows().unwrap()), plan.timesteps(), plan.slot_count());
    drop(scheduler);
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (rows, timesteps, expected) = (Arc::clone(&rows), timesteps.clone(), expected.clone());
            thread::spawn(move || {
                let mut slots = vec![vec![0f32; COUNT]; slot_count];
                let mut x = normals(COUNT, 2);
                for (row, timestep) in rows.iter().zip(timesteps) {
                    row.step(&model(&x, timestep), &mut x, &mut slots).unwrap();
                }
                assert_same_bits(&x, &expected);
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
}

#[test]
fn sessions_move_between_threads_and_keep_their_plan() {
    let mut scheduler = planned(DEIS, 8);
    let expected = run(&mut scheduler.session().unwrap(), normals(COUNT, 3)).unwrap();
    let mut session = scheduler.session().unwrap();
    let mut x = normals(COUNT, 3);
    let timestep = session.timestep().unwrap();
    step(&mut session, timestep, &mut x).unwrap();
    scheduler.set_timesteps(3).unwrap();
    drop(scheduler);
    // Each step runs on a separate thread.
    while session.timestep().is_some() {
        let moved = thread::spawn(move || {
            let timestep = session.timestep().unwrap();
            step(&mut session, timestep, &mut x).unwrap();
            (session, x)
        });
        (session, x) = moved.join().unwrap();
    }
    assert_same_bits(&x, &expected);
}

#[test]
fn errors_belong_to_their_thread() {
    thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || {
                for _ in 0..200 {
                    let error = Scheduler::from_json(Some(&format!("Class{number}")), "{}").unwrap_err();
                    assert!(error.to_string().contains(&format!("scheduler Class{number} ")), "{error}");
                }
            });
        }
    });
}

// SPDX-License-Identifier: Apache-2.0

//! Each error has its kind and a sentence in the caller's words. Failed calls change nothing.

mod common;

use common::*;
use diffusion_scheduling::*;

/// The call fails with the kind, and with a sentence that contains the part and none of C's names.
macro_rules! bad {
    ($call:expr, $kind:ident, $part:expr) => {{
        let error = $call.expect_err(stringify!($call));
        assert!(matches!(error, Error::$kind(_)), "{}: {error:?}", stringify!($call));
        assert!(error.to_string().contains($part), "{}: {error}", stringify!($call));
        assert_eq!(error.to_string(), error.sentence());
        for word in error
            .sentence()
            .split(|character: char| !(character.is_alphanumeric() || character == '_'))
        {
            assert!(
                !(word.starts_with("ds_") || ["NULL", "prev_sample", "n_rows"].contains(&word)),
                "{error}"
            );
        }
    }};
}

#[test]
fn making() {
    bad!(Scheduler::from_json(None, "{}"), InvalidValue, "_class_name is missing");
    bad!(Scheduler::from_json(None, ""), MalformedJson, "line 1, column 1");
    bad!(Scheduler::from_json(None, "{\"a\": }"), MalformedJson, "line 1, column 7");
    bad!(Scheduler::from_json(Some("Nope"), "{}"), UnsupportedScheduler, "Nope");
    bad!(
        Scheduler::from_json(Some("No\0pe"), "{}"),
        InvalidValue,
        "class_name has a zero byte at 2"
    );
    bad!(
        Scheduler::from_json_with(None, DEIS, Some(r#"{"solver_order": 9}"#)),
        InvalidValue,
        "solver_order is 9"
    );
    bad!(Scheduler::from_json_with(None, DEIS, Some("{")), MalformedJson, "column 2");
    let both = r#"{"use_karras_sigmas": true, "use_beta_sigmas": true}"#;
    bad!(
        Scheduler::from_json_with(None, DEIS, Some(both)),
        ConflictingKeys,
        "use_karras_sigmas and use_beta_sigmas"
    );
    bad!(Scheduler::load("/nowhere/at/all", None), InaccessibleFile, "/nowhere/at/all");
    bad!(Scheduler::load("/nowhere\0", None), InvalidValue, "path has a zero byte at 8");
    bad!(
        Scheduler::named("no such sampler", None),
        UnsupportedScheduler,
        "no such sampler"
    );
    bad!(class_description("Nope"), UnsupportedScheduler, "Nope");
    let extreme = r#"{"_class_name": "DEISMultistepScheduler", "trained_betas": "x"}"#;
    bad!(Scheduler::from_json(None, extreme), InvalidValue, "trained_betas");

    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"/tmp/\xff");
    bad!(Scheduler::load(name, None), InvalidValue, "UTF-8");
}

#[test]
fn planning() {
    let mut scheduler = Scheduler::from_json(None, DEIS).unwrap();
    bad!(scheduler.session(), TimestepsNotSet, "call set_timesteps first");
    bad!(scheduler.plan(), TimestepsNotSet, "no timesteps");
    bad!(scheduler.set_timesteps(0), InvalidValue, "0");
    bad!(scheduler.set_timesteps(usize::MAX), InvalidValue, "18446744073709551615");
    bad!(scheduler.set_timesteps_with(5, r#"{"eta": 1}"#), InvalidValue, "eta is given");
    bad!(scheduler.set_timesteps_with(5, "["), MalformedJson, "line 1");
    bad!(
        scheduler.set_timesteps_with(5, "{}\0"),
        InvalidValue,
        "arguments has a zero byte at 2"
    );
    assert!(scheduler.plan().is_err(), "a call that failed has planned");
    scheduler.set_timesteps(3).unwrap();
    bad!(scheduler.session_from(4), InvalidValue, "begin_index is 4");
    let plan = scheduler.plan().unwrap();
    bad!(plan.row(3, 0), InvalidValue, "index is 3");
    bad!(plan.attribute_row(3, 0), InvalidValue, "index is 3");
    bad!(plan.part_row(0, 4), InvalidValue, "order is 4");
    bad!(plan.row_at(999.0, None), UnsupportedOperation, "DEISMultistepScheduler");
    bad!(
        planned(DDIM, 3).plan().unwrap().part_row(0, 0),
        UnsupportedOperation,
        "DDIMScheduler"
    );
    bad!(planned(DDIM, 3).plan().unwrap().row_at(0.5, None), UnknownTimestep, "0.5");
    bad!(
        planned(DDIM, 3).plan().unwrap().row_at(5.0, Some(r#"{"eta": 2}"#)),
        InvalidValue,
        "eta is 2"
    );
    bad!(Session::on_plan("{}", 0), InvalidValue, "plan.version");
    bad!(Session::on_plan("", 0), MalformedJson, "line 1");
    // A plan with a coefficient too large for a float64.
    let endless = plan
        .json()
        .replacen("\"model_output\": ", "\"model_output\": 1e999, \"other\": ", 1);
    assert!(Session::on_plan(&endless, 0).is_err());
}

#[test]
fn rows() {
    let scheduler = planned(DEIS, 3);
    let plan = scheduler.plan().unwrap();
    let with = |change: fn(&mut Row)| {
        let mut row = plan.row(1, 1).unwrap();
        change(&mut row);
        plan.prepare(&row)
    };
    bad!(
        with(|row| row.reads = vec![0; 7]),
        InvalidValue,
        "the number of reads is 7, but must be at most 6"
    );
    bad!(with(|row| row.reads = vec![6]), InvalidValue, "6");
    bad!(
        with(|row| row.stores = vec![Store::default(); 3]),
        InvalidValue,
        "the number of stores is 3, but must be at most 2"
    );
    bad!(
        with(|row| row.stores[0].slot = usize::MAX),
        InvalidValue,
        "stores[0].slot is 18446744073709551615"
    );
    bad!(with(|row| row.next_sample.sample = f64::NAN), InvalidValue, "finite");
    bad!(with(|row| row.prediction.prediction = 1.0), InvalidValue, "prediction");

    let row = plan.prepared_rows().unwrap()[1];
    let e = vec![0f32; 8];
    let mut x = normals(8, 1);
    let before = x.clone();
    let mut slots = vec![vec![0f32; 8]; 7];
    bad!(
        row.step(&e, &mut x, &mut slots),
        InvalidValue,
        "the number of slots is 7, but must be at most 6"
    );
    bad!(row.step(&e, &mut x, &mut slots[..0]), InvalidValue, "is missing");
    slots.truncate(plan.slot_count());
    for slot in &mut slots {
        slot.pop();
    }
    bad!(
        row.step(&e, &mut x, &mut slots),
        ShapeMismatch,
        "slots[0] has the shape [7], but must have [8], like sample"
    );
    let mut none: Vec<Vec<f32>> = Vec::new();
    let options = StepOptions::new;
    bad!(
        row.step_apart(&e, &mut x, &slots, &mut none, options()),
        WrongElementCount,
        "stores has 0 elements, but must have 1"
    );
    bad!(
        row.step_apart(&e, &mut x, &[&e; 7], &mut slots, options()),
        InvalidValue,
        "the number of slots is 7"
    );
    assert_same_bits(&x, &before);
}

#[test]
fn steps() {
    let scheduler = planned(DEIS, 3);
    let mut session = scheduler.session().unwrap();
    let e = normals(8, 1);
    let mut x = normals(8, 2);
    let before = x.clone();
    bad!(
        session.step(&e[..7], &mut x),
        ShapeMismatch,
        "model_output has the shape [7], but must have [8], like sample"
    );
    bad!(session.step(&e, (&x[..6], &mut before.clone()[..7])), ShapeMismatch, "[8]");
    bad!(
        session.step(&e, (&before, &mut x[..7])),
        ShapeMismatch,
        "out has the shape [7], but must have [8]"
    );
    bad!(
        session.step(Tensor::new(&e, &[2, 4]).unwrap(), &mut x),
        ShapeMismatch,
        "[2, 4]"
    );
    let mut seven = [0f32; 7];
    bad!(
        session.step_with(&e, &mut x, StepOptions::new().report(&mut seven)),
        ShapeMismatch,
        "report has the shape [7]"
    );
    bad!(
        session.step_with(&e, &mut x, StepOptions::new().noise(&seven)),
        ShapeMismatch,
        "noise has the shape [7]"
    );
    bad!(
        session.step_with_input(&e, &mut x, &mut seven, StepOptions::new()),
        ShapeMismatch,
        "model_input has the shape [7]"
    );
    let options = StepOptions::new;
    bad!(
        session.step_guided(&e, &seven, Guidance::new(2.0), &mut x, options()),
        ShapeMismatch,
        "unconditional"
    );
    bad!(
        session.step_guided(&e, &e, Guidance::new(f64::NAN), &mut x, options()),
        InvalidValue,
        "scale is nan"
    );
    bad!(
        session.step_guided(&e, &e, Guidance::rescaled(2.0, 1.5), &mut x, options()),
        InvalidValue,
        "rescale is 1.5"
    );
    assert_same_bits(&x, &before);
    assert_eq!(session.step_index(), 0);

    session.step(&e, &mut x).unwrap();
    let mut wide = [0f64; 8];
    bad!(session.step(&e, &mut wide), WrongElementType, "float32");
    bad!(
        session.step(&e[..4], &mut x[..4]),
        WrongElementCount,
        "8, as at the first step"
    );
    session.step(&e, &mut x).unwrap();
    session.step(&e, &mut x).unwrap();
    bad!(
        session.step(&e, &mut x),
        StepPastEnd,
        "all 3 steps have been taken: call reset to start again"
    );

    let mut stochastic = planned(STOCHASTIC, 3).session().unwrap();
    assert!(stochastic.needs_noise());
    bad!(stochastic.step(&e, &mut x), MissingNoise, "step 0 is stochastic");
}

#[test]
fn steps_of_many_sessions() {
    let scheduler = planned(DEIS, 2);
    let stochastic = planned(STOCHASTIC, 2);
    let sessions = || vec![scheduler.session().unwrap(), stochastic.session().unwrap()];
    let e = normals(8, 1);
    let mut x = normals(8, 2);
    let before = x.clone();
    let mut rows = sessions();
    bad!(
        step_sessions(&mut rows, &e, &mut x, StepOptions::new()),
        MissingNoise,
        "row 1: step 0 is stochastic"
    );
    let mut three = sessions();
    three.push(scheduler.session().unwrap());
    bad!(
        step_sessions(&mut three, &e, &mut x, StepOptions::new()),
        InvalidValue,
        "the number of sessions is 3"
    );
    let two = [Guidance::new(2.0); 2];
    bad!(
        step_sessions_guided(&mut three, &e, &e, &two, &mut x, StepOptions::new()),
        WrongElementCount,
        "guidance has 2 elements, but must have 3"
    );
    let wrong = [Guidance::new(2.0), Guidance::rescaled(2.0, -1.0)];
    let noise = StepOptions::new().noise(&e);
    bad!(
        step_sessions_guided(&mut rows, &e, &e, &wrong, &mut x, noise),
        InvalidValue,
        "row 1: guidance rescale is -1"
    );
    let mut none: [Session; 0] = [];
    bad!(
        step_sessions(&mut none, &e, &mut x, StepOptions::new()),
        InvalidValue,
        "the number of sessions is 0"
    );
    assert_same_bits(&x, &before);
    assert!(rows.iter().all(|session| session.step_index() == 0));
}

#[test]
fn states() {
    let scheduler = planned(DEIS, 5);
    let mut session = scheduler.session().unwrap();
    session.step(&[0.5f32; 4], &mut [1f32; 4]).unwrap();
    let saved = session.save();
    bad!(planned(DEIS, 6).restore(&saved), ForeignState, "another plan");
    bad!(
        planned(UNIPC, 5).session().unwrap().restore_like(&saved),
        ForeignState,
        "another plan"
    );
    for count in 0..saved.len() {
        bad!(scheduler.restore(&saved[..count]), DamagedState, "damaged");
    }
    let mut damaged = saved;
    damaged[40] ^= 1;
    bad!(scheduler.restore(&damaged), DamagedState, "damaged");
    bad!(
        Noise::restore(&damaged),
        DamagedState,
        "doesn't begin like a saved noise source"
    );
}

#[test]
fn noise() {
    bad!(Noise::torch_cuda_on(1, 3, 108, 2_048), InvalidValue, "offset is 3");
    bad!(Noise::torch_cuda_on(1, 0, 0, 2_048), InvalidValue, "multiprocessors is 0");
    bad!(
        Noise::torch_cuda_on(1, 0, 108, 255),
        InvalidValue,
        "threads_per_multiprocessor is 255"
    );
    bad!(
        Noise::torch_cuda(1).unwrap().fill(&mut [0f64; 3]),
        WrongElementType,
        "float32"
    );

    let scheduler = Scheduler::from_json(None, DDIM).unwrap();
    let z = [0f32; 4];
    let mut x = [0f32; 4];
    bad!(scheduler.add_noise(&mut x, &z, &[]), WrongElementCount, "1, or 4");
    bad!(scheduler.add_noise(&mut x, &z, &[1_000.0]), UnknownTimestep, "1000");
    bad!(
        scheduler.add_noise(&mut x, &z[..3], &[1.0]),
        ShapeMismatch,
        "noise has the shape [3]"
    );
    let deis = planned(DEIS, 3);
    bad!(deis.velocity(&mut x, &z, &[1.0]), UnsupportedOperation, "no velocity");
    bad!(planned(EULER, 3).scale_model_input(&mut x, 0.5), UnknownTimestep, "0.5");
    bad!(
        combine_noise(&mut x, &z, &[1.0], &[1.0, 2.0]),
        WrongElementCount,
        "noise_rates has 2 elements, but must have 1"
    );
    bad!(
        combine_noise(&mut x, &z, &[f64::INFINITY], &[1.0]),
        InvalidValue,
        "signal_rates[0] is inf"
    );
    bad!(rescale_noise_cfg(&mut x, &z, 1.5), InvalidValue, "guidance_rescale is 1.5");
}

#[test]
fn shapes() {
    let elements = [0f32; 6];
    let mut memory = [0f32; 6];
    bad!(
        Tensor::new(&elements, &[2, 4]),
        WrongElementCount,
        "has 6 elements, but must have 8, as its shape [2, 4] says"
    );
    bad!(TensorMut::new(&mut memory, &[]), WrongElementCount, "must have 1");
    bad!(
        Tensor::new(&elements, &[1; 65]),
        InvalidShape,
        "rank 65, but must have at most 64"
    );
    bad!(
        Tensor::new(&elements, &[usize::MAX, 0]),
        InvalidShape,
        "extent 18446744073709551615"
    );
    bad!(
        Tensor::new(&elements, &[1 << 40, 1 << 40]),
        TooLarge,
        "more elements than fit the address space"
    );
    assert_eq!(Tensor::new(&[] as &[f32], &[1 << 40, 1 << 40, 0]).unwrap().shape().len(), 3);
    assert_eq!(Tensor::new(&elements, &[3, 2]).unwrap().elements().len(), 6);
    let mut view = TensorMut::new(&mut memory, &[3, 2]).unwrap();
    assert_eq!(view.reborrow().shape(), [3, 2]);
}

#[test]
fn there_are_4_194_304_handles_of_a_kind() {
    let mut sources = Vec::new();
    let first = Noise::torch_cuda(1).unwrap();
    let error = loop {
        match first.try_clone() {
            Ok(source) => sources.push(source),
            Err(error) => break error,
        }
        assert!(sources.len() <= 4_194_304);
    };
    assert!(matches!(error, Error::TooManyHandles(_)), "{error:?}");
    drop(sources);
    first.try_clone().unwrap();
}

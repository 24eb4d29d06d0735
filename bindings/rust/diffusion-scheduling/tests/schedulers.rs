// SPDX-License-Identifier: Apache-2.0

//! Schedulers, plans and rows, and the facts that they report.

mod common;

use common::*;
use diffusion_scheduling::*;

#[test]
fn every_class_is_made_described_and_planned() {
    let names: Vec<&str> = supported_class_names().collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        let description = class_description(name).unwrap();
        assert!(description.contains(&format!("\"{name}\"")), "{description}");
        let mut scheduler = Scheduler::from_json(Some(name), "{}").unwrap();
        assert_eq!(scheduler.class_name(), name);
        assert!(!scheduler.defaulted_keys().is_empty());
        // Flow matching has no signal variances.
        assert!(
            [0, scheduler.training_timestep_count()].contains(&scheduler.alphas_cumprod().len()),
            "{name}"
        );
        assert!(scheduler.plan().is_err());

        // Classes whose noise levels depend on the sequence's length need the shift as an argument.
        let arguments = ["{}", r#"{"mu": 1}"#, r#"{"sigmas": [1, 0.75, 0.5, 0.25]}"#];
        let set = arguments.iter().any(|arguments| {
            scheduler
                .set_timesteps_with(if arguments.len() > 12 { 0 } else { 4 }, arguments)
                .is_ok()
        });
        assert!(set, "{name}: {:?}", scheduler.set_timesteps(4));

        let plan = scheduler.plan().unwrap();
        let count = plan.step_count();
        assert!(count > 0 && plan.slot_count() <= MAX_SLOTS);
        assert_eq!(plan.timesteps().len(), count);
        assert_eq!(plan.input_scales().len(), count);
        let weights = plan.output_weights();
        assert!(weights.is_empty() || weights.len() == count);
        assert!(weights.iter().all(|each| (each.iter().sum::<f64>() - 1.0).abs() < 1e-12));
        for levels in [plan.sigmas(), plan.signal_rates(), plan.noise_rates()] {
            assert_eq!(levels.len(), count + 1);
        }
        assert_eq!(plan.init_noise_sigma(), scheduler.init_noise_sigma());
        for index in 0..count {
            let row = plan.row(index, index).unwrap();
            assert!(row.reads.iter().all(|slot| *slot < plan.slot_count()), "{name}: {row:?}");
            assert!(row.stores.len() <= MAX_STORES);
            plan.prepare(&row).unwrap();
            plan.prepare(&plan.attribute_row(index, index).unwrap()).unwrap();
        }
        Session::on_plan(&plan.json(), 0).unwrap();
        assert!(format!("{plan:?} {scheduler:?}").contains(name));

        let again = Scheduler::from_json(None, &scheduler.config_json()).unwrap();
        assert_eq!(again.config_json(), scheduler.config_json());
    }
}

#[test]
fn files_are_loaded() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("model");
    std::fs::create_dir_all(folder.join("scheduler")).unwrap();
    std::fs::write(folder.join("scheduler/scheduler_config.json"), DEIS).unwrap();
    let scheduler = Scheduler::load(&folder, Some("scheduler")).unwrap();
    assert_eq!(scheduler.class_name(), "DEISMultistepScheduler");
    let file = folder.join("scheduler/scheduler_config.json");
    let other = Scheduler::load_with(
        file,
        None,
        Some("DPMSolverMultistepScheduler"),
        Some(r#"{"solver_order": 2}"#),
    )
    .unwrap();
    assert_eq!(other.class_name(), "DPMSolverMultistepScheduler");
    assert!(other.config_json().contains("\"solver_order\": 2"));
}

#[test]
fn samplers_are_made_by_name() {
    let model = Scheduler::from_json(None, r#"{"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear"}"#).unwrap();
    let scheduler = Scheduler::named("DPM++ 2M Karras", Some(&model)).unwrap();
    assert!(scheduler.config_json().contains("scaled_linear"));
    assert!(
        scheduler.sampler_names().contains(&"DPM++ 2M Karras".to_owned()),
        "{:?}",
        scheduler.sampler_names()
    );
    let other = Scheduler::named_with("euler", None, Some(r#"{"beta_schedule": "linear"}"#)).unwrap();
    assert_eq!(other.class_name(), "EulerDiscreteScheduler");
    assert!(sampler_names().any(|name| name == "DPM++ 2M"));
}

#[test]
fn keys_without_an_effect_are_listed() {
    let json = r#"{"_class_name": "DDIMScheduler", "solver_order": 2, "a \"key\"": 1}"#;
    assert_eq!(
        Scheduler::from_json(None, json).unwrap().unused_keys(),
        ["a \"key\"", "solver_order"]
    );
}

#[test]
fn timesteps_are_set_in_every_way() {
    let mut scheduler = Scheduler::from_json(None, EULER).unwrap();
    assert_eq!(scheduler.timesteps().len(), 1_000);
    assert_eq!(scheduler.init_noise_sigma(), 1.0);
    scheduler.set_timesteps_with(0, r#"{"timesteps": [999, 500, 20]}"#).unwrap();
    assert_eq!(scheduler.timesteps(), [999.0, 500.0, 20.0]);
    scheduler
        .set_timesteps_with(0, r#"{"timesteps": [900, 400], "levels": [10.5, 2.5, 0]}"#)
        .unwrap();
    assert_eq!(scheduler.sigmas(), [10.5, 2.5, 0.0]);
    scheduler.set_timesteps_with(8, r#"{"sigma_schedule": "karras"}"#).unwrap();
    let plan = scheduler.plan().unwrap();
    assert_eq!(
        (plan.step_count(), plan.process(), plan.clamp()),
        (8, Process::VarianceExploding, Clamp::None)
    );
    assert!(plan.warm_up() <= 8 && !plan.is_stochastic());
}

#[test]
fn clamps_are_read() {
    let clamp = |json: &str| planned(json, 2).plan().unwrap().clamp();
    assert_eq!(
        clamp(r#"{"_class_name": "DDIMScheduler", "clip_sample_range": 2.5}"#),
        Clamp::Range(2.5)
    );
    let threshold = r#"{"_class_name": "DDIMScheduler", "thresholding": true, "sample_max_value": 1.5}"#;
    assert_eq!(
        clamp(threshold),
        Clamp::Threshold {
            ratio: 0.995,
            maximum: 1.5
        }
    );
}

#[test]
fn rows_are_the_formula_of_a_step() {
    let scheduler = planned(r#"{"_class_name": "DDIMScheduler", "clip_sample": false}"#, 5);
    let plan = scheduler.plan().unwrap();
    let row = plan.row(0, 0).unwrap();
    let (x, e) = (0.75f64, -0.25f64);
    let p = row.prediction.sample * x + row.prediction.model_output * e;
    let next = row.next_sample.sample * x + row.next_sample.model_output * e + row.next_sample.prediction * p;
    let mut stepped = [x];
    scheduler.session().unwrap().step(&[e], &mut stepped).unwrap();
    assert!((stepped[0] - next).abs() < 1e-14);

    // A stateless scheduler has a row for every timestep.
    let timestep = plan.timesteps()[0];
    let at = plan.row_at(timestep, None).unwrap();
    assert_eq!((at.prediction, at.next_sample), (row.prediction, row.next_sample));
    let noisy = plan.row_at(timestep, Some(r#"{"eta": 1}"#)).unwrap();
    assert!(noisy.next_sample.noise > 0.0 && noisy.noise_draws == 1);
    assert_eq!(noisy.noise_factor, NoiseFactor::None);
}

#[test]
fn parts_of_a_step_are_rows() {
    let scheduler = planned(DEIS, 5);
    let plan = scheduler.plan().unwrap();
    let e = normals(8, 1);
    let (mut x, mut y) = (normals(8, 2), normals(8, 2));
    let mut converted = vec![0f32; 8];
    let conversion = plan.prepare(&plan.part_row(0, 0).unwrap()).unwrap();
    let mut slots: Vec<Vec<f32>> = Vec::new();
    conversion.step(&e, (&x, &mut converted), &mut slots).unwrap();
    let update = plan.prepare(&plan.part_row(0, 1).unwrap()).unwrap();
    update.step(&converted, &mut x, &mut slots).unwrap();
    scheduler.session().unwrap().step(&e, &mut y).unwrap();
    for (x, y) in x.iter().zip(&y) {
        assert!((x - y).abs() < 1e-5, "{x} for {y}");
    }
}

#[test]
fn rows_of_the_callers_own_are_prepared() {
    let scheduler = planned(DDIM, 2);
    let plan = scheduler.plan().unwrap();
    let half = Combination {
        sample: 0.5,
        slots: [0.0, 2.0, 0.0, 0.0, 0.0, 0.0],
        ..Combination::default()
    };
    let store = Store {
        slot: 1,
        value: Combination {
            sample: 1.0,
            ..Combination::default()
        },
    };
    let row = Row {
        reads: vec![1],
        next_sample: half,
        stores: vec![store],
        ..Row::default()
    };
    let prepared = plan.prepare(&row).unwrap();
    let copy = prepared;
    let mut slots = [[0f64; 2], [10.0, 20.0]];
    let mut x = [4.0f64, 6.0];
    copy.step(&[0.0f64; 2], &mut x, &mut slots).unwrap();
    assert_eq!((x, slots[1]), ([22.0, 43.0], [4.0, 6.0]));
    assert!(format!("{prepared:?}").contains("store_count: 1"));
}

#[test]
fn noise_is_that_of_torch_and_numpy() {
    let close = |found: &[f64], expected: [f64; 4]| {
        found
            .iter()
            .zip(expected)
            .all(|(found, expected)| (found - expected).abs() < 1e-4)
    };
    let mut torch = [0f32; 4];
    Noise::torch_cpu(42).unwrap().fill(&mut torch).unwrap();
    assert!(close(&torch.map(f64::from), [0.3367, 0.1288, 0.2345, 0.2303]), "{torch:?}");
    let mut numpy = [0f64; 4];
    Noise::numpy(42).unwrap().fill(&mut numpy).unwrap();
    assert!(close(&numpy, [0.4967, -0.1383, 0.6477, 1.5230]), "{numpy:?}");

    let mut cuda = [0f32; 4];
    Noise::torch_cuda(42).unwrap().fill(&mut cuda).unwrap();
    let mut on = [0f32; 4];
    Noise::torch_cuda_on(42, 0, 108, 2_048).unwrap().fill(&mut on).unwrap();
    assert_eq!(cuda, on);
}

#[test]
fn noise_sources_are_copied_and_saved() {
    for mut source in [
        Noise::torch_cpu(7).unwrap(),
        Noise::torch_cuda(7).unwrap(),
        Noise::numpy(7).unwrap(),
    ] {
        let mut skipped = [0f32; 5];
        source.fill(&mut skipped).unwrap();
        let (mut copy, mut restored) = (source.try_clone().unwrap(), Noise::restore(&source.save()).unwrap());
        let draw = |source: &mut Noise| {
            let mut values = vec![0f32; 20];
            source.fill(TensorMut::new(&mut values, &[4, 5]).unwrap()).unwrap();
            bits(&values)
        };
        let expected = draw(&mut source);
        assert_eq!(draw(&mut copy), expected);
        assert_eq!(draw(&mut restored), expected);
    }
}

#[test]
fn the_library_tells_what_it_is() {
    assert_eq!(version().to_string(), env!("CARGO_PKG_VERSION"));
    assert!(!runtime_description().is_empty());
}

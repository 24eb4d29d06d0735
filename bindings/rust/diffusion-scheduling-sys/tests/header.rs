// SPDX-License-Identifier: Apache-2.0

//! Compares the declarations of `src/lib.rs` with `diffusion_scheduling.h`: their text, and a C compiler's view of them.

use std::collections::BTreeSet;
use std::fs;
use std::mem::{align_of, size_of, MaybeUninit};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::addr_of;

use diffusion_scheduling_sys::*;

const CRATE: &str = env!("CARGO_MANIFEST_DIR");

fn header_path() -> PathBuf {
    Path::new(CRATE).join("../../../Sources/CDiffusionScheduling/include/diffusion_scheduling.h")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text with a single space for every run of white space, and none beside punctuation.
fn squeezed(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut line = words.join(" ");
    for mark in ["(", ")", "{", "}", "[", "]", ",", ";", ":", "*", "="] {
        line = line.replace(&format!("{mark} "), mark).replace(&format!(" {mark}"), mark);
    }
    // Formatters write a comma behind the last item of a list only on a line of its own.
    line.replace(",)", ")").replace(",}", "}")
}

// ---- The header, translated

/// The header without comments and preprocessor directives, except for the version's numbers.
fn code_of_header() -> String {
    let mut text = read(&header_path());
    while let Some(start) = text.find("/*") {
        let end = start + text[start..].find("*/").expect("comments end") + 2;
        text.replace_range(start..end, " ");
    }
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The Rust type for a C type.
fn type_of(c: &str) -> String {
    let c = c.trim();
    if let Some(target) = c.strip_suffix('*') {
        let target = target.trim();
        return match target.strip_prefix("const ") {
            Some(target) => format!("*const {}", type_of(target)),
            None => format!("*mut {}", type_of(target)),
        };
    }
    match c {
        "char" => "c_char",
        "double" => "f64",
        "int64_t" => "i64",
        "size_t" => "usize",
        "uint32_t" => "u32",
        "uint64_t" => "u64",
        "unsigned" => "c_uint",
        "void" => "c_void",
        other => other,
    }
    .to_owned()
}

/// A declaration such as `const double *rates` or `size_t reads[DS_MAX_SLOTS]` as `name: type`.
fn declaration(c: &str) -> String {
    let c = c.trim();
    let start = c
        .rfind(|character: char| !(character.is_alphanumeric() || "_[]".contains(character)))
        .map_or(0, |place| place + 1);
    let (kind, name) = (type_of(&c[..start]), &c[start..]);
    let name = if name == "type" { "r#type" } else { name };
    match name.split_once('[') {
        Some((name, count)) => format!("{name}: [{kind}; {}]", count.trim_end_matches(']')),
        None => format!("{name}: {kind}"),
    }
}

/// The header's declarations in the form that `src/lib.rs` should have.
fn translated_header() -> BTreeSet<String> {
    let mut items = BTreeSet::new();
    for line in read(&header_path()).lines() {
        if let Some(version) = line.strip_prefix("#define DS_VERSION") {
            let (name, value) = version.split_once(' ').expect("a value");
            items.insert(squeezed(&format!(
                "pub const DS_VERSION{name}: u32 = {};",
                value.trim().trim_matches(&['(', ')'][..])
            )));
        }
    }
    let mut rest = code_of_header().replace("extern \"C\" {", "");
    while let Some(open) = rest.find('{') {
        let close = open + rest[open..].find('}').expect("braces end");
        let start = rest[..open].rfind([';', '}']).map_or(0, |place| place + 1);
        let end = close + rest[close..].find(';').map_or(1, |place| place + 1);
        let (head, body) = (rest[start..open].trim().to_owned(), rest[open + 1..close].to_owned());
        let name = rest[close + 1..end].trim_matches(&[' ', ';', '\n'][..]).to_owned();
        if head.contains("enum") {
            let kind = if name.is_empty() { "usize".to_owned() } else { name.clone() };
            if !name.is_empty() {
                items.insert(squeezed(&format!("pub type {name} = c_uint;")));
            }
            for enumerator in body.split(',').filter(|text| !text.trim().is_empty()) {
                let (constant, value) = enumerator.split_once('=').expect("enumerators have values");
                items.insert(squeezed(&format!(
                    "pub const {}: {kind} = {};",
                    constant.trim(),
                    value.trim()
                )));
            }
        } else if head.contains("struct") {
            let fields: Vec<String> = body
                .split(';')
                .filter(|text| !text.trim().is_empty())
                .map(|field| format!("pub {}", declaration(field)))
                .collect();
            items.insert(squeezed(&format!("pub struct {name} {{ {} }}", fields.join(", "))));
        }
        rest.replace_range(start..end, "");
    }
    for function in rest.split(';').filter(|text| text.contains('(')) {
        let function = function.trim_start_matches(&['}', ' ', '\n'][..]);
        let (head, arguments) = function.split_once('(').expect("an argument list");
        let arguments: Vec<String> = arguments.trim().trim_end_matches(')').split(',').map(declaration).collect();
        let arguments = if arguments == ["void: "] {
            String::new()
        } else {
            arguments.join(", ")
        };
        let head = declaration(head);
        let (name, result) = head.split_once(": ").expect("a result");
        items.insert(squeezed(&format!("pub fn {name}({arguments}) -> {result};")));
    }
    items
}

/// The public items of `src/lib.rs`.
fn declared() -> BTreeSet<String> {
    let text = read(&Path::new(CRATE).join("src/lib.rs"));
    let code: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//") && !line.starts_with("#["))
        .collect();
    let code = code.join("\n");
    let mut items = BTreeSet::new();
    let mut rest = code.as_str();
    while let Some(start) = rest.find("pub ") {
        rest = &rest[start..];
        let end = rest
            .find(if rest.starts_with("pub struct") { '}' } else { ';' })
            .expect("items end")
            + 1;
        items.insert(squeezed(&rest[..end]));
        rest = &rest[end..];
    }
    items
}

#[test]
fn declarations_are_those_of_the_header() {
    let (expected, found) = (translated_header(), declared());
    assert!(
        expected.len() > 100,
        "the header has {} items only: {expected:?}",
        expected.len()
    );
    let missing: Vec<&String> = expected.difference(&found).collect();
    let foreign: Vec<&String> = found.difference(&expected).collect();
    assert!(
        missing.is_empty() && foreign.is_empty(),
        "in the header alone: {missing:#?}\nin src/lib.rs alone: {foreign:#?}"
    );
}

// ---- Layouts and values

/// Lines `name size alignment`, `name.field offset` and `NAME value`, and a C program that prints these lines for the header.
struct Survey {
    lines: Vec<String>,
    program: String,
}

macro_rules! layout {
    ($survey:ident, $($name:ident { $($field:ident),* })*) => {$(
        $survey.lines.push(format!("{} {} {}", stringify!($name), size_of::<$name>(), align_of::<$name>()));
        $survey.program += concat!(
            "printf(\"", stringify!($name), " %zu %zu\\n\", sizeof(", stringify!($name), "), _Alignof(", stringify!($name), "));\n"
        );
        $({
            let value = MaybeUninit::<$name>::uninit();
            let base = value.as_ptr();
            // SAFETY: the address lies inside `value`; nothing is read.
            let field = unsafe { addr_of!((*base).$field) };
            let offset = field as usize - base as usize;
            $survey.lines.push(format!("{}.{} {}", stringify!($name), stringify!($field), offset));
            $survey.program += concat!(
                "printf(\"", stringify!($name), ".", stringify!($field), " %zu\\n\", offsetof(", stringify!($name), ", ",
                stringify!($field), "));\n"
            );
        })*
    )*};
}

macro_rules! values {
    ($survey:ident, $($name:ident)*) => {$(
        $survey.lines.push(format!("{} {}", stringify!($name), $name));
        $survey.program += concat!("printf(\"", stringify!($name), " %llu\\n\", (unsigned long long)", stringify!($name), ");\n");
    )*};
}

#[test]
fn layouts_and_values_are_those_of_a_c_compiler() {
    let mut survey = Survey {
        lines: Vec::new(),
        program: String::new(),
    };
    layout! { survey,
        ds_tensor { data, element_type, rank, shape }
        ds_scheduler { handle }
        ds_session { handle }
        ds_noise { handle }
        ds_plan_properties {
            n_steps, n_slots, warm_up, init_noise_sigma, clamp, clamp_range, threshold_ratio, threshold_maximum, learns_variance,
            is_stochastic, process
        }
        ds_combination { sample, model_output, noise, prediction, slots }
        ds_store { slot, value }
        ds_row {
            n_reads, reads, prediction, next_sample, n_stores, stores, report, n_noise_draws, noise_factor, noise_offset, noise_slope
        }
        ds_prepared_row { contents }
        ds_guidance { scale, rescale }
        ds_status {}
        ds_element_type {}
        ds_clamp {}
        ds_process {}
        ds_noise_factor {}
        ds_noise_kind {}
    }
    values! { survey,
        DS_VERSION DS_MAX_RANK DS_MAX_SLOTS DS_MAX_STORES DS_PREPARED_ROW_WORDS DS_OK DS_OVERLAP DS_KERNEL_FAILURE DS_BFLOAT16
        DS_CLAMP_THRESHOLD DS_FLOW DS_NOISE_FACTOR_EXPONENTIAL DS_NOISE_NUMPY
    }
    assert_eq!(output_of_c(&survey.program), survey.lines.join("\n") + "\n");
}

/// The output of a C program that includes the header.
fn output_of_c(statements: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (folder.join("layout.c"), folder.join("layout"));
    let text = format!("#include <diffusion_scheduling.h>\n#include <stdio.h>\nint main(void) {{\n{statements}return 0;\n}}\n");
    fs::write(&source, text).expect("the folder for tests can be written to");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let include = header_path().parent().expect("a folder").to_owned();
    let compiled = Command::new(&compiler)
        .args(["-std=c11", "-Wall", "-Werror", "-I"])
        .args([&include, &source])
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap_or_else(|error| panic!("the C compiler {compiler} doesn't start: {error}"));
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let output = Command::new(&program).output().expect("the program starts");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text")
}

// ---- The library

#[test]
fn the_library_has_the_version_of_the_declarations() {
    // SAFETY: the function takes no arguments.
    let version = unsafe { ds_version() };
    assert_eq!(version, DS_VERSION, "rebuild the library: make lib");
}

#[test]
fn every_function_is_in_the_library() {
    macro_rules! addresses {
        ($($name:ident)*) => {[$((stringify!($name), $name as *const () as usize)),*]};
    }
    let functions = addresses! {
        ds_version ds_runtime_description ds_status_message ds_error_message ds_element_size ds_supported_class_name
        ds_class_description ds_scheduler_create ds_scheduler_load ds_scheduler_create_named ds_sampler_name ds_scheduler_free
        ds_scheduler_class_name ds_scheduler_config_json ds_scheduler_sampler_names ds_scheduler_unused_keys
        ds_scheduler_defaulted_keys ds_scheduler_num_train_timesteps ds_scheduler_alphas_cumprod ds_scheduler_init_noise_sigma
        ds_scheduler_set_timesteps ds_scheduler_plan_properties ds_scheduler_timesteps
        ds_scheduler_sigmas ds_scheduler_signal_rates ds_scheduler_noise_rates ds_scheduler_input_scales
        ds_scheduler_output_weights ds_scheduler_row ds_scheduler_attribute_row ds_scheduler_plan_json ds_scheduler_device_table ds_scheduler_device_row
        ds_session_create ds_session_free ds_session_copy ds_session_reset
        ds_session_step_index ds_session_timestep ds_session_needs_noise ds_session_step ds_session_step_with_input
        ds_session_step_guided ds_sessions_step ds_session_save ds_session_restore ds_session_create_on_plan
        ds_session_restore_like ds_scheduler_add_noise ds_combine_noise ds_scheduler_get_velocity
        ds_scheduler_scale_model_input ds_scheduler_row_at ds_scheduler_part_row ds_scheduler_prepare_row ds_row_step
        ds_rescale_noise_cfg ds_noise_create ds_noise_create_torch_cuda ds_noise_free ds_noise_copy ds_noise_fill ds_noise_save
        ds_noise_restore
    };
    let names: BTreeSet<&str> = functions.iter().map(|(name, _)| *name).collect();
    let declared: Vec<String> = declared()
        .into_iter()
        .filter_map(|item| item.strip_prefix("pub fn ").map(str::to_owned))
        .collect();
    for item in &declared {
        let name = item.split('(').next().unwrap_or_default();
        assert!(names.contains(name), "the list of this test lacks {name}");
    }
    assert_eq!(names.len(), declared.len());
    assert!(functions.iter().all(|(_, address)| *address != 0));
}

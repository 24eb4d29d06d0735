// SPDX-License-Identifier: Apache-2.0

//! Examples/C/sample.c and examples/sample.rs have the same output: the picture, and the checksum of the samples' bits.

use std::path::{Path, PathBuf};
use std::process::Command;

#[allow(dead_code)]
#[path = "../examples/sample.rs"]
mod sample;

#[test]
fn the_example_prints_what_the_c_example_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sample");
    let libraries = env!("DIFFUSION_SCHEDULING_LIBRARIES");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let compiled = Command::new(&compiler)
        .args(["-std=c11", "-O2", "-I"])
        .arg(root.join("Sources/CDiffusionScheduling/include"))
        .arg(root.join("Examples/C/sample.c"))
        .arg("-o")
        .arg(&program)
        .args([
            &format!("-L{libraries}"),
            "-ldiffusion_scheduling",
            "-lm",
            &format!("-Wl,-rpath,{libraries}"),
        ])
        .output()
        .unwrap_or_else(|error| panic!("the C compiler {compiler} doesn't start: {error}"));
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let output = Command::new(&program).output().unwrap();
    assert!(output.status.success());
    let expected = String::from_utf8(output.stdout).unwrap();
    let found = sample::report(&sample::sample().unwrap());
    assert!(expected.contains("checksum: "));
    assert_eq!(found, expected);
}

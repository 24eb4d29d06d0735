// SPDX-License-Identifier: Apache-2.0

//! Lets the tests and examples of this crate find the library even if Cargo doesn't start them.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_DIFFUSION_SCHEDULING_LIB_DIR") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
        // A test compiles a C program, which links the library, too.
        println!("cargo:rustc-env=DIFFUSION_SCHEDULING_LIBRARIES={folder}");
    }
}

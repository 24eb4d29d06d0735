#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks the Rust crates in bindings/rust against the library in out/lib: layout, lints, tests, documentation, the example, a
# package that depends on them, and the messages of builds that can't find the library.
#
#     Tests/check-rust.sh
#
# Prints a line per check; ends with the number of failures, and fails if there are any. CARGO names another cargo.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$(dirname "${BASH_SOURCE[0]}")/checks.sh"

cargo=${CARGO:-cargo}
crates=$root/bindings/rust
export CARGO_TARGET_DIR=$root/out/rust CARGO_NET_OFFLINE=true CARGO_TERM_COLOR=never
unset LD_LIBRARY_PATH PKG_CONFIG_PATH
"$cargo" --version

# in_crates COMMAND...: cargo in the workspace, with the library of this repository.
in_crates() { (cd "$crates" && DIFFUSION_SCHEDULING_LIB_DIR=$root/out/lib "$cargo" "$@"); }

check "layout of the sources" in_crates fmt --all --check
check "lints" in_crates clippy --quiet --workspace --all-targets -- -D warnings
check "lints, with half types" in_crates clippy --quiet --workspace --all-targets --features half-types -- -D warnings
check "tests" in_crates test --quiet --workspace
check "tests, with half types" in_crates test --quiet --package diffusion-scheduling --features half-types
RUSTDOCFLAGS="-D warnings" check "documentation without a warning" in_crates doc --quiet --workspace --no-deps --features half-types
check "the example builds" in_crates build --quiet --package diffusion-scheduling --example sample
check "the example samples, started without cargo" "$CARGO_TARGET_DIR/debug/examples/sample"
tail -n 3 "$work/log" | sed 's/^/      /'

# Schedulers are data: their names occur in comments, as examples, and in the text that a caller passes.
names_no_scheduler() {
    ! grep -rnE '[A-Z][A-Za-z0-9]+Scheduler\b' "$crates"/*/src | grep -vE '^[^:]*:[0-9]+: *//[/!]|UnsupportedScheduler'
}
check "no source of the crates names a scheduler" names_no_scheduler

# ---- A separate package that depends on the crates, with the library in each of its places

cp -r "$crates" "$work/crates"
mkdir -p "$work/consumer/src"
cat >"$work/consumer/Cargo.toml" <<'END'
[package]
name = "consumer"
version = "1.0.0"
edition = "2021"

[dependencies]
diffusion-scheduling = { path = "../crates/diffusion-scheduling" }
END
cat >"$work/consumer/src/main.rs" <<'END'
fn main() -> Result<(), diffusion_scheduling::Error> {
    let mut scheduler = diffusion_scheduling::Scheduler::named("DPM++ 2M Karras", None)?;
    scheduler.set_timesteps(20)?;
    println!("{} steps with {}", scheduler.plan()?.step_count(), diffusion_scheduling::version());
    Ok(())
}
END

# consumer [ENVIRONMENT...]: builds and runs the package.
consumer() { (cd "$work/consumer" && env "$@" CARGO_TARGET_DIR="$work/target" "$cargo" run --quiet); }

# refuses SENTENCE ENVIRONMENT...: the build fails without a panic, and its message contains the sentence.
refuses() {
    local output
    if output=$(consumer "${@:2}" 2>&1); then
        echo "the build succeeded"
        return 1
    fi
    echo "$output"
    grep -qF -- "$1" <<<"$output" && ! grep -q panicked <<<"$output"
}

prefix=$work/prefix
check "make install" make -s -C "$root" install-library PREFIX="$prefix"
check "a package finds the library by pkg-config" consumer PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
check "a package finds the library by DIFFUSION_SCHEDULING_LIB_DIR" consumer DIFFUSION_SCHEDULING_LIB_DIR="$prefix/lib"

version=$(sed -n 's/^Version: //p' "$prefix/lib/pkgconfig/diffusion_scheduling.pc")
major=${version%%.*} library=libdiffusion_scheduling.so
mkdir -p "$work"/{empty,other,later}
touch "$work/other/$library.$((major + 7))" "$work/later/$library.$major.999.0"
ln -s "$library.$major.999.0" "$work/later/$library.$major"
cp -r "$prefix/lib/pkgconfig" "$work/told"
sed -i "s/^Version: .*/Version: $((major + 7)).0.0/" "$work/told/diffusion_scheduling.pc"

check "no library: the build says what to do" refuses 'Run `make lib`' PKG_CONFIG=/bin/false
check "an empty folder: the build names it" refuses "$work/empty, which holds no $library" DIFFUSION_SCHEDULING_LIB_DIR="$work/empty"
check "no folder: the build names it" refuses "$work/none, which can't be read" DIFFUSION_SCHEDULING_LIB_DIR="$work/none"
check "another major version: the build names both" refuses "$library.$((major + 7)), but this crate needs $library.$major" \
    DIFFUSION_SCHEDULING_LIB_DIR="$work/other"
check "another major version of pkg-config's: the build names both" \
    refuses "version $((major + 7)).0.0 in $prefix/lib, but this crate needs $version" PKG_CONFIG_PATH="$work/told"
if [ "$major" = 0 ]; then
    check "another minor version before 1.0: the build names both" \
        refuses "holds version $major.999.0, but this crate needs $version" DIFFUSION_SCHEDULING_LIB_DIR="$work/later"
fi

finish

// SPDX-License-Identifier: Apache-2.0

//! Finds libdiffusion_scheduling.so: in the folder named by `DIFFUSION_SCHEDULING_LIB_DIR`, else by pkg-config, else in `out/lib`
//! of the repository. If none fits, the build ends with a sentence on what to do.
//!
//! The build links to the library in its own folder. Cargo lets programs that it runs search such folders, so `cargo run` and
//! `cargo test` don't need `LD_LIBRARY_PATH`, in this workspace and in packages that depend on it. Crates that depend on this one
//! get the library's own folder as `DEP_DIFFUSION_SCHEDULING_LIB_DIR`, for an rpath.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{exit, Command};

const STEM: &str = "libdiffusion_scheduling.so";

/// The known numbers of a version: 0.1.0, 0.1 or 0.
struct Version(Vec<u32>);

impl Version {
    fn parse(text: &str) -> Option<Version> {
        text.trim()
            .split('.')
            .map(|part| part.parse().ok())
            .collect::<Option<Vec<u32>>>()
            .map(Version)
    }

    /// The version of this package, which equals the version of the declared header.
    fn needed() -> Version {
        Version::parse(env!("CARGO_PKG_VERSION")).expect("Cargo checks the form of versions")
    }

    fn major(&self) -> u32 {
        self.0[0]
    }

    /// Whether programs made for `needed` run with this version: major versions are equal, minor versions not older. Before 1.0
    /// minor versions may change anything, so they must be equal, too.
    fn serves(&self, needed: &Version) -> bool {
        if self.major() != needed.major() {
            return false;
        }
        match (self.0.get(1), needed.0.get(1)) {
            (Some(minor), Some(least)) if needed.major() == 0 => minor == least,
            (Some(minor), Some(least)) => minor >= least,
            _ => true,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(u32::to_string).collect();
        formatter.write_str(&numbers.join("."))
    }
}

fn main() {
    for name in [
        "DIFFUSION_SCHEDULING_LIB_DIR",
        "PKG_CONFIG",
        "PKG_CONFIG_PATH",
        "PKG_CONFIG_LIBDIR",
        "PKG_CONFIG_SYSROOT_DIR",
    ] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    // Documentation builds without a library.
    if env::var_os("DOCS_RS").is_some() {
        return;
    }
    if let Err(sentence) = require_linux_64().and_then(|()| find()).and_then(|folder| link(&folder)) {
        eprintln!("{sentence}");
        exit(1);
    }
}

fn require_linux_64() -> Result<(), String> {
    let system = variable("CARGO_CFG_TARGET_OS");
    let width = variable("CARGO_CFG_TARGET_POINTER_WIDTH");
    if system == "linux" && width == "64" {
        return Ok(());
    }
    Err(format!(
        "the target is {system} with {width} bits, but the library exists for Linux with 64 bits only"
    ))
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// The folder of a library with a suitable version.
fn find() -> Result<PathBuf, String> {
    if let Some(folder) = env::var_os("DIFFUSION_SCHEDULING_LIB_DIR") {
        let folder = PathBuf::from(folder);
        return check(&folder, None, "DIFFUSION_SCHEDULING_LIB_DIR").map(|()| folder);
    }
    // Libraries of this machine don't fit another target.
    let is_native = variable("HOST") == variable("TARGET");
    if is_native {
        if let Some((folder, version)) = pkg_config() {
            return check(&folder, Some(version), "pkg-config").map(|()| folder);
        }
        let folder = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../../../out/lib");
        if folder.join(STEM).exists() {
            let folder = folder
                .canonicalize()
                .map_err(|error| format!("{}: {error}", folder.display()))?;
            return check(&folder, None, "the repository").map(|()| folder);
        }
    }
    let searched = if is_native {
        "pkg-config doesn't know diffusion_scheduling, and the repository's out/lib doesn't hold it"
    } else {
        "for another machine than this one, it isn't searched for"
    };
    Err(format!(
        "{STEM} isn't found: {searched}. Run `make lib` in the repository of DiffusionScheduling, install it with `sudo make install`, \
         or set DIFFUSION_SCHEDULING_LIB_DIR to the folder of a library"
    ))
}

/// The folder and the version of pkg-config's library, if it knows one.
fn pkg_config() -> Option<(PathBuf, Version)> {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let answer = |option: &str| {
        let output = Command::new(&program).args([option, "diffusion_scheduling"]).output().ok()?;
        let text = output.status.success().then(|| String::from_utf8(output.stdout).ok())??;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let version = Version::parse(&answer("--modversion")?)?;
    Some((answer("--variable=libdir")?.into(), version))
}

/// Fails unless the folder holds a suitable library.
fn check(folder: &Path, told: Option<Version>, source: &str) -> Result<(), String> {
    let needed = Version::needed();
    let place = folder.display();
    let advice =
        "run `make lib` in the repository that this crate belongs to, or set DIFFUSION_SCHEDULING_LIB_DIR to another folder";
    if let Some(version) = told.filter(|version| !version.serves(&needed)) {
        return Err(format!(
            "{source} names version {version} in {place}, but this crate needs {needed}: {advice}"
        ));
    }
    let entries = fs::read_dir(folder).map_err(|error| format!("{source} names {place}, which can't be read: {error}"))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.retain(|name| name.starts_with(STEM));
    names.sort();
    let loaded = format!("{STEM}.{}", needed.major());
    if !names.contains(&loaded) {
        let instead = if names.is_empty() {
            format!("no {STEM}")
        } else {
            names.join(", ")
        };
        return Err(format!(
            "{source} names {place}, which holds {instead}, but this crate needs {loaded}: {advice}"
        ));
    }
    match version_of(folder, &loaded) {
        Some(version) if !version.serves(&needed) => Err(format!(
            "{source} names {place}, which holds version {version}, but this crate needs {needed}: {advice}"
        )),
        _ => Ok(()),
    }
}

/// The version of a library: from the name of the file behind the link `loaded`, else from pkg-config's file beside it.
fn version_of(folder: &Path, loaded: &str) -> Option<Version> {
    let file = folder.join(loaded).canonicalize().ok()?;
    let named = file
        .file_name()?
        .to_str()?
        .strip_prefix(STEM)?
        .strip_prefix('.')
        .and_then(Version::parse);
    let told = || {
        let text = fs::read_to_string(folder.join("pkgconfig/diffusion_scheduling.pc")).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("Version:"))
            .and_then(Version::parse)
    };
    named.filter(|version| version.0.len() >= 3).or_else(told)
}

/// Tells Cargo the library's folder.
fn link(folder: &Path) -> Result<(), String> {
    let loaded = format!("{STEM}.{}", Version::needed().major());
    let folder = folder
        .canonicalize()
        .map_err(|error| format!("{}: {error}", folder.display()))?;
    let library = folder.join(&loaded);
    let own = PathBuf::from(variable("OUT_DIR"));
    for name in [STEM, &loaded] {
        let place = own.join(name);
        let _ = fs::remove_file(&place);
        refer(&library, &place).map_err(|error| format!("{}: {error}", place.display()))?;
    }
    println!("cargo:rerun-if-changed={}", library.display());
    println!("cargo:rustc-link-search=native={}", own.display());
    println!("cargo:rustc-link-lib=dylib=diffusion_scheduling");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    println!("cargo:lib_dir={}", folder.display());
    Ok(())
}

#[cfg(unix)]
fn refer(library: &Path, place: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(library, place)
}

#[cfg(not(unix))]
fn refer(library: &Path, place: &Path) -> std::io::Result<()> {
    fs::copy(library, place).map(|_| ())
}

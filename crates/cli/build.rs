//! How the binary is linked, for the sake of its start, which every command pays for twice: as itself and as its helper.
//!
//! Both only where they can be had; the binary works without.

use std::env;
use std::error::Error;
use std::path::Path;
use std::process::Command;

use fs_err as fs;

/// The first C library that relocates a binary by packed tables.
const PACKED_RELOCATIONS: (u32, u32) = (2, 36);

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    // What follows asks this machine, and a binary for another one may be linked with anything.
    let is_native = env::var("TARGET")? == env::var("HOST")?;
    if is_native && env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|name| name == "gnu") {
        take_in_the_unwinder(Path::new(&env::var("OUT_DIR")?))?;
        pack_relocations();
    }
    Ok(())
}

/// Has the unwinder of GCC become a part of the binary: as a library it asks the processor for its features when it is
/// loaded, and each question is an exit from a virtual machine.
///
/// The standard library asks the linker for `gcc_s`, so a script for the linker of that name leads to the other form.
fn take_in_the_unwinder(directory: &Path) -> Result<(), Box<dyn Error>> {
    if said_by("cc", &["-print-file-name=libgcc_eh.a"]).is_some_and(|path| Path::new(path.trim()).is_absolute()) {
        fs::write(directory.join("libgcc_s.so"), "INPUT(-lgcc_eh)\n")?;
        println!("cargo::rustc-link-search=native={}", directory.display());
    }
    Ok(())
}

/// Writes the tables of relocations in the packed form, a fortieth of the usual one.
fn pack_relocations() {
    let version = said_by("getconf", &["GNU_LIBC_VERSION"]);
    if version.is_some_and(|version| release(&version).is_some_and(|release| release >= PACKED_RELOCATIONS)) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The release in a text like `glibc 2.36`.
fn release(version: &str) -> Option<(u32, u32)> {
    let (major, rest) = version.trim().rsplit(' ').next()?.split_once('.')?;
    let minor = rest.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What a program prints, if it is there and succeeds.
fn said_by(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

//! Hands the kernel programs to `src/plane/ebpf_object.rs`, if `cargo xtask build-ebpf` has
//! built them. Never builds them; their absence is legal.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{env, io};

use proxy_ebpf::CONTRACT;
use proxy_ebpf::contract::contract_of;

fn main() -> io::Result<()> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let object = match env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("linux") => built_object(&out)?,
        _ => Vec::new(),
    };
    fs::write(out.join("srs-proxy.bpf.o"), object)
}

/// The object of `target/ebpf`, empty if there is none of this contract.
fn built_object(out: &Path) -> io::Result<Vec<u8>> {
    // The folder is watched, and so has to exist: cargo would take an absent file for changed,
    // and build the proxy anew each time.
    let folder = target_folder(out)?.join("ebpf");
    if !folder.is_dir() {
        fs::create_dir_all(&folder)?;
        // Younger than this run, it would be taken for changed once. Worth no failure.
        let _ = File::open(&folder).and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH));
    }
    println!("cargo::rerun-if-changed={}", folder.display());
    let object = match fs::read(folder.join("srs-proxy.bpf.o")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    if contract_of(&object) == Some(CONTRACT) {
        return Ok(object);
    }
    println!(
        "cargo::warning=the kernel programs are not of contract {CONTRACT} and are left out: \
         run `cargo xtask build-ebpf`, then build again"
    );
    Ok(Vec::new())
}

/// Cargo's target folder. `OUT_DIR` is `<target>[/<triple>]/<profile>/build/<package>/out`, also
/// where the folder comes from `CARGO_TARGET_DIR` or from a configuration file.
fn target_folder(out: &Path) -> io::Result<PathBuf> {
    let triple = variable("TARGET")?;
    let above = out.ancestors().nth(4).and_then(|above| match above.file_name() {
        Some(name) if *name == *triple => above.parent(),
        _ => Some(above),
    });
    above
        .map(Path::to_path_buf)
        .ok_or_else(|| io::Error::other("OUT_DIR is not where it used to be"))
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|error| io::Error::other(format!("{name}: {error}")))
}

//! `cargo xtask build-ebpf`: the programs of `proxy-ebpf`, compiled for the kernel.
//!
//! A compiler for that is found, or else fetched, by one of the [`Route`]s; the linker is built
//! once into `target/tools`. Same sources and same compiler give the same bytes, wherever the
//! checkout is.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command::{is_root, succeed, succeeds_within, target_dir, workspace};

/// What a build leaves behind.
#[derive(Debug)]
pub(crate) struct Built {
    /// `target/ebpf/srs-proxy.bpf.o`, which the next build of the proxy embeds.
    pub(crate) object: PathBuf,
    /// Its size.
    pub(crate) bytes: usize,
}

/// Builds the object, if it is not up to date, and says by which route.
pub(crate) fn build() -> Result<Built> {
    let workspace = Workspace::locate()?;
    let out = workspace.target.join("ebpf-build");
    let fresh = compile(&workspace, &out)?;
    let built = publish(&workspace, &fresh, &out)?;
    println!("build-ebpf: {} ({} bytes)", built.object.display(), built.bytes);
    Ok(built)
}

/// Builds the object once more, from nothing and in another folder. Fails if its bytes are not
/// those of `built`.
pub(crate) fn build_again(built: &Built) -> Result<()> {
    let workspace = Workspace::locate()?;
    let out = workspace.target.join("ebpf-build-again");
    let remove = || match fs::remove_dir_all(&out) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("removing {}", out.display())),
    };
    remove()?;
    let again = compile(&workspace, &out)?;
    let (one, other) = (read(&built.object)?, read(&again)?);
    ensure!(one == other, "two builds differ: {} and {}", built.object.display(), again.display());
    println!("build-ebpf: two builds are equal");
    remove()
}

/// Compiles the programs into `out`, and says where the object is then.
fn compile(workspace: &Workspace, out: &Path) -> Result<PathBuf> {
    let route = Route::find_or_fetch(workspace)?;
    println!("build-ebpf: {route}");
    let linker = linker(workspace)?;
    succeed(&mut compiler(workspace, route, &linker, out)?)?;
    Ok(out.join(TARGET).join(PROFILE).join(PROGRAMS))
}

/// This machine has no compiler for the kernel's machine, and may not get one by itself.
#[derive(Debug)]
pub(crate) struct NoCompiler;

impl fmt::Display for NoCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no compiler here builds for the kernel. Run one of these, then this command again:\n  \
             {FETCH_SOURCE}\n  {FETCH_DEBIAN}   (Debian 12 or later, as root)"
        )
    }
}

impl Error for NoCompiler {}

/// How the programs get a compiler and a `core` library for the kernel's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// R1: rustup's nightly, `core` built from its `rust-src`.
    Nightly,
    /// R2: the toolchain of `rust-toolchain.toml`, `core` built from its `rust-src`.
    Pinned,
    /// R3: Debian's compiler for the web, `core` prebuilt in its BPF package.
    Debian,
}

impl Route {
    /// The first route that is there, or that can be fetched without asking anyone.
    fn find_or_fetch(workspace: &Workspace) -> Result<Self> {
        let there = |route: Self| route.is_there(workspace);
        if let Some(route) =
            [Self::Nightly, Self::Pinned, Self::Debian].into_iter().find(|&r| there(r))
        {
            return Ok(route);
        }
        println!("build-ebpf: trying `{FETCH_SOURCE}`");
        let mut rustup = workspace.command("rustup");
        rustup.args(["component", "add", "rust-src"]);
        if succeeds_within(&mut rustup, FETCH_LIMIT) && there(Self::Pinned) {
            return Ok(Self::Pinned);
        }
        if is_root() && Path::new("/usr/bin/apt-get").exists() {
            println!("build-ebpf: trying `{FETCH_DEBIAN}`");
            if apt_get(&["update"]).is_ok()
                && apt_get(&DEBIAN_INSTALL).is_ok()
                && there(Self::Debian)
            {
                return Ok(Self::Debian);
            }
        }
        Err(NoCompiler.into())
    }

    fn is_there(self, workspace: &Workspace) -> bool {
        let core_is_there = match self {
            Self::Nightly | Self::Pinned => self
                .sysroot(workspace)
                .is_some_and(|sysroot| sysroot.join(SOURCE).join("library/Cargo.lock").is_file()),
            Self::Debian => self
                .rustc(workspace, &["--print", "target-libdir", "--target", TARGET])
                .is_some_and(|folder| has_prebuilt_core(Path::new(folder.trim()))),
        };
        let llvm = self.rustc(workspace, &["-vV"]).as_deref().and_then(llvm_major);
        core_is_there && llvm.is_some_and(|major| major <= LINKER_LLVM)
    }

    fn sysroot(self, workspace: &Workspace) -> Option<PathBuf> {
        Some(self.rustc(workspace, &["--print", "sysroot"])?.trim().into())
    }

    /// What this route's compiler answers, `None` if there is none or it refuses.
    fn rustc(self, workspace: &Workspace, args: &[&str]) -> Option<String> {
        let mut command = match self {
            Self::Nightly | Self::Pinned => workspace.command("rustc"),
            Self::Debian => workspace.command(DEBIAN_RUSTC),
        };
        if self == Self::Nightly {
            command.arg("+nightly");
        }
        let output = command.args(args).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8(output.stdout).ok())?
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nightly => "route R1, rustup's nightly and its rust-src",
            Self::Pinned => "route R2, the pinned toolchain and its rust-src",
            Self::Debian => "route R3, Debian's rustc-web and its core for BPF",
        })
    }
}

/// The checkout, and where cargo puts what it builds.
#[derive(Debug)]
struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    fn locate() -> Result<Self> {
        Ok(Self { root: workspace()?, target: target_dir()? })
    }

    /// A command in the checkout, free of what the surrounding cargo has chosen for itself.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        for variable in [
            "CARGO_BUILD_TARGET",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "RUSTC",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
        ] {
            command.env_remove(variable);
        }
        // A missing nightly is a route that is not there, and no reason to fetch one.
        command.env("RUSTUP_AUTO_INSTALL", "0");
        command
    }
}

/// The linker in `target/tools`, built there first if it is not.
fn linker(workspace: &Workspace) -> Result<PathBuf> {
    let tools = workspace.target.join("tools");
    let linker = tools.join("bin").join("bpf-linker");
    let answer = Command::new(&linker).arg("--version").output();
    if answer.is_ok_and(|a| String::from_utf8_lossy(&a.stdout).trim().ends_with(LINKER_VERSION)) {
        return Ok(linker);
    }
    println!("build-ebpf: building bpf-linker {LINKER_VERSION}, once, some minutes");
    let mut install = workspace.command("cargo");
    install
        .args([
            "install",
            "--quiet",
            "--locked",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--root",
        ])
        .arg(tools);
    succeed(&mut install)?;
    Ok(linker)
}

/// The command that compiles the programs into `out`.
fn compiler(workspace: &Workspace, route: Route, linker: &Path, out: &Path) -> Result<Command> {
    let mut cargo = workspace.command("cargo");
    if route == Route::Nightly {
        cargo.arg("+nightly");
    }
    cargo
        .args(["build", "--quiet", "--locked", "--package", "proxy-ebpf", "--bin", PROGRAMS])
        .args(["--profile", PROFILE, "--target", TARGET, "--target-dir"])
        .arg(out)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(workspace, route)?)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
    match route {
        Route::Nightly => cargo.args(BUILD_CORE),
        Route::Pinned => cargo.args(BUILD_CORE).env("RUSTC_BOOTSTRAP", "1"),
        Route::Debian => cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", UNSTABLE),
    };
    Ok(cargo)
}

/// BTF in the object, and in it no path of this machine.
fn rustflags(workspace: &Workspace, route: Route) -> Result<OsString> {
    let sysroot = route.sysroot(workspace).context("the compiler does not say where it lives")?;
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")))
        .context("neither CARGO_HOME nor a home directory is known")?;
    let mut flags = OsString::from("-Clink-arg=--btf");
    for flag in CODE {
        flags.push("\x1f");
        flags.push(flag);
    }
    let places = [
        (&workspace.root, "/srs-proxy"),
        (&cargo_home, "/cargo"),
        (&sysroot.join(SOURCE), "/rust"),
    ];
    for (here, anywhere) in places {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(here);
        flags.push("=");
        flags.push(anywhere);
    }
    Ok(flags)
}

/// Puts the object where the proxy's build looks for it. An equal one keeps its time, so that
/// the proxy is not built again for nothing.
fn publish(workspace: &Workspace, fresh: &Path, out: &Path) -> Result<Built> {
    let folder = workspace.target.join("ebpf");
    let object = folder.join("srs-proxy.bpf.o");
    let bytes = read(fresh)?;
    if fs::read(&object).is_ok_and(|old| old == bytes) {
        return Ok(Built { object, bytes: bytes.len() });
    }
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let whole = out.join("srs-proxy.bpf.o");
    fs::write(&whole, &bytes).with_context(|| format!("writing {}", whole.display()))?;
    fs::rename(&whole, &object).with_context(|| format!("writing {}", object.display()))?;
    Ok(Built { object, bytes: bytes.len() })
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("reading {}", file.display()))
}

fn has_prebuilt_core(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|files| {
        files.flatten().any(|file| {
            let name = file.file_name();
            let path = Path::new(&name);
            name.to_string_lossy().starts_with("libcore-")
                && path.extension().is_some_and(|extension| extension == "rlib")
        })
    })
}

/// The LLVM major version in the answer to `rustc -vV`.
fn llvm_major(answer: &str) -> Option<u32> {
    let version = answer.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

fn apt_get(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.arg("-qq").args(args).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
    succeed(&mut command)
}

/// The kernel's machine, on every host whose bytes are little endian.
const TARGET: &str = "bpfel-unknown-none";
const PROFILE: &str = "ebpf";
const PROGRAMS: &str = "srs-proxy-ebpf";
/// Instructions of the kernels from 5.1 on. Words in a packet are read in one piece: the kernel
/// takes care of that where the machine minds.
const CODE: [&str; 1] = ["-Ctarget-cpu=v3"];
const BUILD_CORE: [&str; 2] = ["-Z", "build-std=core"];
/// Crates that use what a stable compiler does not have yet.
const UNSTABLE: &str = "aya_ebpf,srs_proxy_ebpf";
/// Where `rust-src` is in a sysroot.
const SOURCE: &str = "lib/rustlib/src/rust";
/// This version loads the LLVM of rustup's toolchain: nothing else has to be installed.
const LINKER_VERSION: &str = "0.10.4";
/// The newest LLVM whose output it reads.
const LINKER_LLVM: u32 = 22;
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_INSTALL: [&str; 5] =
    ["install", "--yes", "--no-install-recommends", "rustc-web", "libstd-rust-web-dev-bpf"];
const FETCH_SOURCE: &str = "rustup component add rust-src";
const FETCH_DEBIAN: &str =
    "apt-get install --no-install-recommends rustc-web libstd-rust-web-dev-bpf";
const FETCH_LIMIT: Duration = Duration::from_mins(2);

#[cfg(test)]
mod tests {
    use super::llvm_major;

    #[test]
    fn the_compiler_says_which_llvm_it_has() {
        assert_eq!(llvm_major("rustc 1.95.0\nhost: x\nLLVM version: 22.1.2\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.95.0\nhost: x\n"), None, "a compiler without LLVM");
    }
}

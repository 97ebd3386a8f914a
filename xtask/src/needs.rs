//! What the tests need of the machine, and getting it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{find, is_root, succeed, target_dir, workspace};

/// A program or a file of another one, and the Debian package that has it.
pub(crate) struct Need {
    what: &'static str,
    package: &'static str,
    is_here: fn() -> bool,
}

/// What the demo needs, and the tests as well.
pub(crate) const DEMO: &[Need] = &[
    Need { what: "FFmpeg", package: "ffmpeg", is_here: || find("ffmpeg").is_some() },
    NGINX,
    Need { what: "nginx's RTMP module", package: "libnginx-mod-rtmp", is_here: nginx_speaks_rtmp },
];

/// What only the tests need.
pub(crate) const TESTS: &[Need] = &[
    Need { what: "Node.js", package: "nodejs", is_here: || find("node").is_some() },
    Need { what: "Chromium", package: "chromium", is_here: has_browser },
    Need { what: "npm", package: "npm", is_here: || find("npm").is_some() },
    Need { what: "Python's venv", package: "python3-venv", is_here: has_venv },
    Need {
        what: "SRT's tools",
        package: "srt-tools",
        is_here: || find("srt-live-transmit").is_some(),
    },
    // Its own service is left alone: the tests start servers on ports of their own.
    Need { what: "Redis", package: "redis-server", is_here: || find("redis-server").is_some() },
    Need { what: "strace", package: "strace", is_here: || find("strace").is_some() },
    Need { what: "bpftool", package: "bpftool", is_here: || find("bpftool").is_some() },
    IP,
    ETHTOOL,
    HAPROXY,
];

/// What the benches need.
pub(crate) const BENCHES: &[Need] = &[
    NGINX,
    HAPROXY,
    Need { what: "nginx's stream module", package: "libnginx-mod-stream", is_here: nginx_streams },
    Need { what: "socat", package: "socat", is_here: || find("socat").is_some() },
    IP,
    ETHTOOL,
];

const IP: Need = Need { what: "ip", package: "iproute2", is_here: || find("ip").is_some() };

const ETHTOOL: Need =
    Need { what: "ethtool", package: "ethtool", is_here: || find("ethtool").is_some() };

const NGINX: Need =
    Need { what: "nginx", package: "nginx-light", is_here: || find("nginx").is_some() };

const HAPROXY: Need =
    Need { what: "HAProxy", package: "haproxy", is_here: || find("haproxy").is_some() };

/// Installs what is missing where that is this user's right; else says the one command.
pub(crate) fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.is_here)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|need| need.what).collect::<Vec<_>>().join(", ");
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let command = format!(
        "apt-get update && apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    if find("apt-get").is_none() {
        bail!("missing: {names}. On Debian or Ubuntu: sudo sh -c '{command}'");
    }
    if !is_root() {
        bail!("missing: {names}. This gets it: sudo sh -c '{command}'");
    }
    println!("missing: {names}; running: {command}");
    let mut apt = Command::new("sh");
    succeed(apt.args(["-c", &command]).env("DEBIAN_FRONTEND", "noninteractive"))?;
    match needs.iter().find(|need| !(need.is_here)()) {
        Some(need) => bail!("{} is still missing after `{command}`", need.what),
        None => Ok(()),
    }
}

/// Ubuntu's package `chromium` is only a way to a snap: Chrome does as well.
fn has_browser() -> bool {
    ["chromium", "google-chrome"].into_iter().any(|browser| find(browser).is_some())
}

/// Debian keeps the half of Python's venv that brings pip in a package of its own.
fn has_venv() -> bool {
    let Some(python) = find("python3") else {
        return false;
    };
    Command::new(python)
        .args(["-c", "import ensurepip, venv"])
        .status()
        .is_ok_and(|it| it.success())
}

/// Puts node-media-server, as its lock file has it, into the target folder.
pub(crate) fn install_nms() -> Result<()> {
    install_once("nms", "package-lock.json", |from, to| {
        for file in ["package.json", "package-lock.json"] {
            fs::copy(from.join(file), to.join(file))?;
        }
        let mut npm = Command::new(find("npm").context("npm is not in PATH")?);
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
        succeed(npm.current_dir(to))
    })
}

/// Makes a Python environment in the target folder that has aiortc, as its lock file has it.
pub(crate) fn install_aiortc() -> Result<()> {
    install_once("aiortc", "requirements.txt", |from, to| {
        let mut venv = Command::new(find("python3").context("python3 is not in PATH")?);
        succeed(venv.args(["-m", "venv", "--clear"]).arg(to))?;
        let mut pip = Command::new(to.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(["--only-binary", ":all:", "--require-hashes", "-r"]);
        succeed(pip.arg(from.join("requirements.txt")))
    })
}

/// Fills the folder of this name in the target folder, by what the folder of this name in `tests`
/// has. Once it is there, the network is not asked again until the lock file is another.
fn install_once(
    name: &str,
    lock_file: &str,
    install: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<()> {
    let (from, to) = (workspace()?.join("tests").join(name), target_dir()?.join(name));
    let lock = fs::read(from.join(lock_file))?;
    // Written last: an install that was cut short is begun anew.
    let installed = to.join(format!("installed-{lock_file}"));
    if fs::read(&installed).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    fs::create_dir_all(&to)?;
    install(&from, &to).with_context(|| format!("installing {name}"))?;
    Ok(fs::write(installed, lock)?)
}

fn nginx_speaks_rtmp() -> bool {
    nginx_has("rtmp", |built| built.contains("--add-module=") && built.contains("rtmp"))
}

fn nginx_streams() -> bool {
    nginx_has("stream", |built| built.split_whitespace().any(|word| word == "--with-stream"))
}

/// Whether nginx has a module, beside it or, as it says how it was built, linked in.
fn nginx_has(module: &str, is_linked: impl FnOnce(&str) -> bool) -> bool {
    let folders = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/etc/nginx/modules"];
    let file = format!("ngx_{module}_module.so");
    if folders.iter().any(|folder| Path::new(folder).join(&file).is_file()) {
        return true;
    }
    let Some(nginx) = find("nginx") else {
        return false;
    };
    let output = Command::new(nginx).arg("-V").output();
    output.is_ok_and(|output| is_linked(&String::from_utf8_lossy(&output.stderr)))
}

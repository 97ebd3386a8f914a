//! The daemon as its operator starts it: what it answers, where, and with which exit code.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

/// What the daemon answers in a folder with this `.env`, its environment otherwise empty.
fn srs_proxy(dotenv: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join(".env"), dotenv).unwrap();
    Command::new(env!("CARGO_BIN_EXE_srs-proxy"))
        .current_dir(folder.path())
        .env_clear()
        .envs(environment.iter().copied())
        .env("RUST_BACKTRACE", "1")
        .args(arguments)
        .output()
        .expect("the daemon was built by this test run")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

#[test]
fn a_valid_configuration_is_one_line_and_success() {
    let environment = [("PROXY_SYSTEM_API", "127.0.0.1:0"), ("PROXY_RTMP_SERVER", "0")];
    let output = srs_proxy("", &environment, &["--check-config"]);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.starts_with("the configuration is valid"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn every_refusal_is_one_line_on_standard_error_and_code_2() {
    let run: &[&str] = &[];
    for (dotenv, environment, arguments, answer) in [
        (
            "",
            [("PROXY_RTMP_SERVER", "localhost:1935")],
            run,
            "PROXY_RTMP_SERVER=\"localhost:1935\" (environment): expected a port or an IP address",
        ),
        (
            "PROXY_LOG=info\nPROXY_RTMP_SERVER\n",
            [("A", "")],
            &["--check-config"],
            ".env line 2: expected NAME=value",
        ),
        (
            "",
            [("PROXY_REDIS_URL", "redis://:hunter2@")],
            run,
            "PROXY_REDIS_URL=*** (environment): expected",
        ),
        ("", [("A", "")], &["--config", "absent.toml"], "cannot read absent.toml: "),
        ("", [("A", "")], &["--config", ".env", "--max-routes=0"], "--max-routes=\"0\" (flag): "),
    ] {
        let output = srs_proxy(dotenv, &environment, arguments);
        assert_eq!(output.status.code(), Some(2), "{answer}: {output:?}");
        assert_eq!(text(&output.stdout), "", "{answer}");
        let said = text(&output.stderr);
        assert!(said.starts_with(&format!("srs-proxy: {answer}")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn the_effective_configuration_names_its_sources_and_hides_its_secrets() {
    let output = srs_proxy(
        "PROXY_REDIS_PASSWORD='hunter2'\nPROXY_IDLE_TIMEOUT=1m\n",
        &[("PROXY_RTMP_SERVER", "1935"), ("PROXY_IDLE_TIMEOUT", "")],
        &["--print-config", "--max-routes", "7"],
    );
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stdout);
    let rows: Vec<Vec<_>> = said.lines().map(|l| l.split_whitespace().collect()).collect();
    for row in [
        ["PROXY_RTMP_SERVER", "1935", "environment"],
        ["PROXY_IDLE_TIMEOUT", "1m", ".env"],
        ["PROXY_MAX_ROUTES", "7", "flag"],
        ["PROXY_REDIS_PASSWORD", "***", ".env"],
        ["PROXY_HTTP_SERVER", "18080", "default"],
    ] {
        assert!(rows.iter().any(|shown| shown == &row), "{row:?} is missing in {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn help_and_version_are_answers() {
    for (flag, answer) in [("--help", "--rtmp-server"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let output = srs_proxy("", &[], &[flag]);
        assert!(output.status.success(), "{output:?}");
        assert!(text(&output.stdout).contains(answer), "{flag}: {output:?}");
    }
}

//! The command line: one flag per setting, and what else can be asked for.

use std::env;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches};

use super::settings::{Setting, settings};
use super::source::{Effective, Said, Source, Sources};
use super::{Config, Error};

/// What the process is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Serve.
    Run {
        /// As the operator wants it.
        config: Box<Config>,
        /// What the operator should know, one line each.
        warnings: Vec<String>,
    },
    /// Say what the kernel path finds on this host, and exit.
    Doctor {
        /// As the operator wants it.
        config: Box<Config>,
    },
    /// Answer a question about the settings, and exit with success.
    Print {
        /// The answer, for standard output.
        text: String,
        /// What the operator should know, one line each, for standard error.
        warnings: Vec<String>,
    },
}

impl Command {
    /// Reads the arguments and the environment of this process, `.env` in its working directory
    /// and the file that `--config` names. The error is for the operator, see [`Error`].
    pub fn from_process() -> Result<Self, Error> {
        Self::read(env::args_os(), env::vars_os(), Path::new(".env"))
    }

    /// The same from `arguments`, the program's name first, an environment, and a `.env` file
    /// that need not exist.
    fn read(
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        dotenv: &Path,
    ) -> Result<Self, Error> {
        let matches = match command_line().try_get_matches_from(arguments) {
            Ok(matches) => matches,
            Err(answer) => return Self::answer(&answer),
        };
        let effective = Effective::read(Sources {
            flags: flags(&matches),
            environment: environment.into_iter().collect(),
            dotenv,
            file: matches.get_one::<PathBuf>(CONFIG).map(PathBuf::as_path),
        })?;
        let (config, warnings) = Config::read(&effective)?;
        if matches.subcommand_name() == Some(DOCTOR) {
            Ok(Self::Doctor { config: Box::new(config) })
        } else if matches.get_flag(PRINT) {
            Ok(Self::Print { text: print(&effective), warnings })
        } else if matches.get_flag(CHECK) {
            Ok(Self::Print { text: check(&effective), warnings })
        } else {
            Ok(Self::Run { config: Box::new(config), warnings })
        }
    }

    /// `--help` and `--version` are answers, the rest is an error.
    fn answer(answer: &clap::Error) -> Result<Self, Error> {
        let text = answer.to_string();
        match answer.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Self::Print { text, warnings: Vec::new() })
            }
            _ => Err(Error::Usage(text.trim_start_matches("error: ").trim_end().into())),
        }
    }
}

fn command_line() -> clap::Command {
    let own = [
        Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("TOML file with settings"),
        Arg::new(CHECK)
            .long(CHECK)
            .action(ArgAction::SetTrue)
            .help("Check the settings, print one line and exit"),
        Arg::new(PRINT)
            .long(PRINT)
            .action(ArgAction::SetTrue)
            .conflicts_with(CHECK)
            .help("Print every setting with its value and where it came from, and exit"),
    ];
    clap::Command::new("srs-proxy")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Puts a media cluster behind one address")
        .after_help("A flag wins over the environment, the environment over .env in the working directory, .env over the file of --config.")
        .subcommand(
            clap::Command::new(DOCTOR)
                .about("Print what the fast paths need and find on this host, and exit")
                .after_help("The exit code is 0 if media can be forwarded in the kernel, and else 1. Settings stand in front: srs-proxy --ebpf-pin /sys/fs/bpf/srs-proxy doctor."),
        )
        .disable_help_subcommand(true)
        .args(own)
        .next_help_heading("Settings")
        .args(settings().iter().map(flag))
}

fn flag(setting: &'static Setting) -> Arg {
    let mut help = format!("{} [{}]", setting.doc.replace('`', ""), setting.name);
    if !setting.default.is_empty() {
        help = format!("{help} [default: {}]", setting.default);
    }
    Arg::new(setting.name).long(setting.flag()).value_name("VALUE").help(help)
}

fn flags(matches: &ArgMatches) -> Vec<(&'static Setting, String)> {
    let said = |setting: &'static Setting| {
        Some((setting, matches.get_one::<String>(setting.name)?.clone()))
    };
    settings().iter().filter_map(said).collect()
}

/// One line per setting: name, value, source.
fn print(effective: &Effective) -> String {
    let rows = settings().iter().map(|setting| {
        let Said { text, source } = effective.of(setting);
        let value = match text.as_str() {
            "" => "-".into(),
            _ if setting.secret => "***".into(),
            text => text.escape_debug().to_string(),
        };
        (setting.name, value, source)
    });
    let rows: Vec<_> = rows.collect();
    let name_width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    let value_width = rows.iter().map(|(_, value, _)| value.chars().count()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (name, value, source)| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:name_width$}  {value:value_width$}  {source}");
        text
    })
}

/// One line.
fn check(effective: &Effective) -> String {
    let set = settings().iter().filter(|s| effective.of(s).source != Source::Default).count();
    format!("the configuration is valid: {set} set, the others have their defaults\n")
}

const DOCTOR: &str = "doctor";
const CONFIG: &str = "config";
const CHECK: &str = "check-config";
const PRINT: &str = "print-config";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::config::{LogFormat, RedisNode, RedisShape, RedisTls, Secret};
    use crate::origin::Policy;
    use crate::proto::proxy_protocol::Version;
    use crate::stream::Vhosts;

    #[test]
    fn with_nothing_said_every_default_counts() {
        let (config, warnings) = Operator::new().runs();
        assert_eq!(config.rtmp.listen.to_string(), "11935");
        assert_eq!(config.system_api.listen.to_string(), "12025");
        assert_eq!(config.rtmp.max_message, 8 * 1024 * 1024);
        assert_eq!(config.origin.ttl.as_secs(), 300);
        assert_eq!(config.session.idle_timeout.as_secs(), 300);
        assert_eq!(config.balancer.policy, Policy::LeastStreams);
        assert_eq!(config.balancer.vhosts, Vhosts::default());
        assert_eq!(config.log.format, LogFormat::Human);
        assert!(config.default_backend.is_none(), "the default backend is off");
        assert_eq!(warnings.len(), 1, "an open system API is worth one line: {warnings:?}");
    }

    #[test]
    fn the_stronger_source_wins() {
        let mut operator = Operator::new();
        let listen = |operator: &Operator| operator.runs().0.rtmp.listen.to_string();
        operator.file("rtmp_server = 1");
        assert_eq!(listen(&operator), "1", "a file wins over the default");
        operator.dotenv("PROXY_RTMP_SERVER=2");
        assert_eq!(listen(&operator), "2", ".env wins over the file");
        operator.environment("PROXY_RTMP_SERVER", "3");
        assert_eq!(listen(&operator), "3", "the environment wins over .env");
        operator.flag("--rtmp-server=4");
        assert_eq!(listen(&operator), "4", "a flag wins over the environment");
    }

    #[test]
    fn an_empty_value_counts_as_unset() {
        let mut operator = Operator::new();
        operator.dotenv("PROXY_RTMP_SERVER=2\nPROXY_SYSTEM_API=");
        operator.environment("PROXY_RTMP_SERVER", "");
        let (config, _) = operator.runs();
        assert_eq!(config.rtmp.listen.to_string(), "2", ".env speaks where the variable is empty");
        assert_eq!(config.system_api.listen.to_string(), "12025", "no default can be emptied");
    }

    #[test]
    fn a_wrong_value_is_named_as_it_was_written() {
        let expected = "expected a whole number from 1 on";
        let mut operator = Operator::new();
        let path = operator.file("max_routes = 0");
        let answer = format!("max_routes=\"0\" (file {}): {expected}", path.display());
        assert_eq!(operator.refused(), answer);
        operator.dotenv("PROXY_MAX_ROUTES='a few'");
        assert_eq!(operator.refused(), format!("PROXY_MAX_ROUTES=\"a few\" (.env): {expected}"));
        operator.environment("PROXY_MAX_ROUTES", "-1");
        assert_eq!(
            operator.refused(),
            format!("PROXY_MAX_ROUTES=\"-1\" (environment): {expected}")
        );
        operator.flag("--max-routes=1e3");
        assert_eq!(operator.refused(), format!("--max-routes=\"1e3\" (flag): {expected}"));
    }

    #[test]
    fn every_setting_can_be_said_everywhere() {
        for setting in settings().iter().filter(|setting| !setting.default.is_empty()) {
            // A folder that is named must exist.
            let is_folder = setting.name == "PROXY_STATIC_FILES";
            let value = if is_folder { "." } else { setting.default };
            let mut operator = Operator::new();
            operator.file(&format!("{} = \"{value}\"", setting.key()));
            operator.dotenv(&format!("{}={value}", setting.name));
            operator.environment(setting.name, value);
            operator.flag(&format!("--{}={value}", setting.flag()));
            operator.runs();
        }
    }

    #[test]
    fn a_named_folder_of_static_files_must_exist_and_the_default_one_may() {
        let mut operator = Operator::new();
        assert_eq!(operator.runs().0.static_files, None, "the default is not here");
        let folder = operator.folder.path().to_path_buf();
        operator.environment("PROXY_STATIC_FILES", folder.to_str().unwrap());
        assert_eq!(operator.runs().0.static_files, Some(folder.clone()));
        for missing in ["nowhere", "page.html"] {
            fs::write(folder.join("page.html"), "a file").unwrap();
            let missing = folder.join(missing);
            operator.environment("PROXY_STATIC_FILES", missing.to_str().unwrap());
            let refused = operator.refused();
            assert!(refused.starts_with("PROXY_STATIC_FILES="), "{refused}");
            assert!(
                refused.ends_with("expected a folder that exists and can be entered"),
                "{refused}"
            );
        }
    }

    #[test]
    fn redis_is_named_by_its_settings_or_by_one_url() {
        let mut operator = Operator::new();
        operator.environment("PROXY_LOAD_BALANCER_TYPE", "redis");
        operator.environment("PROXY_REDIS_PASSWORD", "hunter2");
        let redis = operator.runs().0.redis;
        let node = RedisNode { host: "127.0.0.1".into(), port: 6379 };
        assert_eq!(redis.target.shape, RedisShape::Single { node, db: 0 });
        assert_eq!(redis.timeout, Duration::from_millis(200));
        assert_eq!(redis.route_ttl, Some(Duration::from_hours(24)));

        operator.flag("--redis-url=rediss+cluster://h").flag("--redis-route-ttl=0");
        let redis = operator.runs().0.redis;
        assert!(
            matches!(redis.target.shape, RedisShape::Cluster { .. }) && redis.route_ttl.is_none()
        );
        assert_eq!(redis.target.tls, Some(RedisTls { ca: None, identity: None }));
        assert_eq!(redis.target.password.as_ref().map(Secret::reveal), Some("hunter2"));
        operator.environment("PROXY_REDIS_DB", "0");
        assert_eq!(
            operator.refused(),
            "--redis-url=*** (flag): expected not to be set beside PROXY_REDIS_DB=\"0\" (environment)"
        );
        let mut operator = Operator::new();
        operator.dotenv("PROXY_REDIS_PASSWORD=hunter2");
        operator.flag("--redis-url=redis://:hunter3@h");
        assert_eq!(
            operator.refused(),
            "--redis-url=*** (flag): expected not to be set beside PROXY_REDIS_PASSWORD=*** (.env)"
        );
    }

    #[test]
    fn what_redis_would_never_be_shown_is_refused() {
        for (flags, problem) in [
            (["--redis-user=ann", "--redis-db=1"], "expected PROXY_REDIS_PASSWORD to be set, too"),
            (["--redis-tls-ca=ca.pem", "--redis-tls=off"], "expected PROXY_REDIS_TLS to be on, or"),
            (["--redis-tls-key=key", "--redis-tls=on"], "expected PROXY_REDIS_TLS_CERT to be set"),
            (["--redis-tls-cert=c", "--redis-tls=on"], "expected PROXY_REDIS_TLS_KEY to be set"),
            (["--redis-sentinel-password=x", "--redis-url=redis://h"], "to name Sentinels"),
        ] {
            let mut operator = Operator::new();
            operator.flag(flags[0]).flag(flags[1]);
            let refused = operator.refused();
            assert!(refused.contains(problem), "{flags:?}: {refused}");
        }
    }

    #[test]
    fn the_doctor_is_asked_with_settings_in_front() {
        let command = |arguments: &[&str]| {
            let arguments = arguments.iter().map(Into::into);
            Command::read(arguments, Vec::new(), Path::new("nowhere.env"))
        };
        let asked = command(&["srs-proxy", "--ebpf-mode=tc", "doctor"]);
        let Ok(Command::Doctor { config }) = asked else { panic!("it was not asked: {asked:?}") };
        assert_eq!(config.kernel.mode, crate::config::KernelMode::Tc);
        assert!(command(&["srs-proxy", "nurse"]).is_err(), "there is nobody else");
    }

    #[test]
    fn two_servers_cannot_share_a_port() {
        let mut operator = Operator::new();
        operator.flag("--rtmp-server=127.0.0.1:12025");
        assert_eq!(
            operator.refused(),
            "--rtmp-server=\"127.0.0.1:12025\" (flag): \
             127.0.0.1:12025 is the same port as 12025 in PROXY_SYSTEM_API=\"12025\" (default)"
        );
        operator.flag("--system-api=127.0.0.2:12025,[::1]:12025");
        operator.runs();
    }

    #[test]
    fn a_tcp_and_a_udp_server_may_share_a_port() {
        let mut operator = Operator::new();
        operator.flag("--http-server=8000").flag("--webrtc-server=8000");
        operator.runs();
        operator.flag("--srt-server=8000");
        assert!(operator.refused().starts_with("--webrtc-server"), "two UDP servers share 8000");
    }

    #[test]
    fn the_hard_stop_is_not_before_the_gentle_one() {
        let mut operator = Operator::new();
        operator.flag("--force-quit-timeout=10s");
        assert_eq!(
            operator.refused(),
            "--force-quit-timeout=\"10s\" (flag): \
             expected no less than PROXY_GRACE_QUIT_TIMEOUT=\"20s\" (default)"
        );
        operator.flag("--grace-quit-timeout=10s");
        operator.runs();
    }

    #[test]
    fn authentication_needs_type_and_token() {
        let mut operator = Operator::new();
        operator.flag("--http-api-auth-enabled=on");
        assert!(operator.refused().contains("PROXY_HTTP_API_AUTH_TYPE"), "no type");
        operator.flag("--http-api-auth-type=bearer");
        assert!(operator.refused().contains("PROXY_HTTP_API_AUTH_TOKEN"), "no token");
        operator.flag("--http-api-auth-token=hunter2");
        let (config, warnings) = operator.runs();
        let token = config.system_api.token.as_ref().expect("a token is demanded");
        assert_eq!(token.reveal(), "hunter2");
        assert!(!format!("{config:?}").contains("hunter2"), "the token shows in debug output");
        assert_eq!(warnings, [""; 0], "the system API is not open");
    }

    #[test]
    fn the_default_backend_is_switched_on_by_on() {
        let mut operator = Operator::new();
        operator.environment("PROXY_DEFAULT_BACKEND_ENABLED", "on");
        operator.environment("PROXY_DEFAULT_BACKEND_IP", "origin.example");
        let backend = operator.runs().0.default_backend.expect("it is on");
        assert_eq!((backend.ip.as_str(), backend.rtmp), ("origin.example", 1935));
        assert_eq!(backend.http, None, "HTTP has no default");
    }

    #[test]
    fn what_is_said_in_vain_is_warned_of() {
        let mut operator = Operator::new();
        operator.flag("--system-api=127.0.0.1:12025");
        operator.environment("PROXY_RTMP_SEVER", "1935");
        operator.environment("PROXY_ADDRESS_FORWARDING", "true");
        operator.environment("PROXY", "x");
        operator.dotenv("PROXY_REDIS_PASWORD=hunter2\nRTMP_PORT=1935");
        assert_eq!(
            operator.runs().1,
            [
                "PROXY_REDIS_PASWORD (.env) is not a setting; did you mean PROXY_REDIS_PASSWORD?",
                "PROXY_RTMP_SEVER (environment) is not a setting; did you mean PROXY_RTMP_SERVER?",
                "PROXY_ADDRESS_FORWARDING (environment) is not a setting",
            ]
        );
    }

    #[test]
    fn a_proxy_header_is_expected_from_somebody() {
        let mut operator = Operator::new();
        operator.flag("--protocol-accept=on").flag("--protocol-send=v2");
        assert_eq!(
            operator.refused(),
            "--protocol-accept=\"on\" (flag): expected PROXY_TRUSTED_PROXIES to be set, too"
        );
        operator.flag("--trusted-proxies=10.0.0.0/8,::1");
        let client = operator.runs().0.client;
        assert!(client.accept && client.trusted.contains([10, 1, 2, 3].into()));
        assert_eq!(client.send, Some(Version::V2));
        let mut operator = Operator::new();
        operator.flag("--protocol-send=v3");
        assert!(operator.refused().ends_with("expected off or v1 or v2"));
    }

    #[test]
    fn a_named_file_must_exist_and_a_malformed_one_is_not_half_read() {
        let mut operator = Operator::new();
        operator.flag("--config=/nowhere/proxy.toml");
        assert!(operator.refused().starts_with("cannot read /nowhere/proxy.toml: "));
        let mut operator = Operator::new();
        operator.dotenv("PROXY_LOG=info\nPROXY_REDIS_PASSWORD='hunter2\n");
        let answer = operator.refused();
        assert!(answer.ends_with(".env line 2: the quote is not closed on its line"), "{answer}");
    }

    #[test]
    fn the_printed_settings_show_values_sources_and_no_secret() {
        let mut operator = Operator::new();
        let path = operator.file("log = \"debug\"");
        operator.dotenv("PROXY_REDIS_PASSWORD=hunter2");
        operator.environment("PROXY_RTMP_SERVER", "1935");
        operator.flag("--print-config").flag("--idle-timeout=1m");
        let text = operator.printed();
        assert!(!text.contains("hunter2"), "the password is shown: {text}");
        let rows: Vec<Vec<_>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), settings().len(), "one line per setting");
        let file = path.display().to_string();
        for row in [
            vec!["PROXY_RTMP_SERVER", "1935", "environment"],
            vec!["PROXY_REDIS_PASSWORD", "***", ".env"],
            vec!["PROXY_IDLE_TIMEOUT", "1m", "flag"],
            vec!["PROXY_LOG", "debug", "file", &file],
            vec!["PROXY_VHOSTS", "-", "default"],
            vec!["PROXY_HTTP_API_AUTH_TOKEN", "-", "default"],
        ] {
            assert!(rows.contains(&row), "{row:?} is missing in {text}");
        }
    }

    #[test]
    fn a_check_says_one_line() {
        let mut operator = Operator::new();
        operator.flag("--check-config").flag("--system-api=127.0.0.1:0");
        let line = "the configuration is valid: 1 set, the others have their defaults\n";
        assert_eq!(operator.printed(), line);
        operator.flag("--max-routes=0");
        operator.refused();
    }

    #[test]
    fn help_names_every_setting_and_version_the_version() {
        let mut operator = Operator::new();
        operator.flag("--help");
        let help = operator.printed();
        for setting in settings() {
            assert!(
                help.contains(&format!("--{} ", setting.flag())),
                "{} has no help",
                setting.name
            );
        }
        let mut operator = Operator::new();
        operator.flag("--version");
        assert_eq!(operator.printed(), format!("srs-proxy {}\n", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn an_unknown_flag_is_told_its_neighbour() {
        let mut operator = Operator::new();
        operator.flag("--redis-pasword=hunter2");
        let answer = operator.refused();
        assert!(answer.contains("--redis-pasword") && answer.contains("--redis-password"));
        assert!(!answer.contains("hunter2"), "the secret is shown: {answer}");
    }

    /// Someone who sets this and that, in a folder of their own.
    struct Operator {
        folder: TempDir,
        arguments: Vec<OsString>,
        environment: Vec<(OsString, OsString)>,
    }

    impl Operator {
        fn new() -> Self {
            Self {
                folder: TempDir::new().unwrap(),
                arguments: vec!["srs-proxy".into()],
                environment: vec![("PATH".into(), "/bin".into())],
            }
        }

        fn flag(&mut self, flag: &str) -> &mut Self {
            self.arguments.push(flag.into());
            self
        }

        fn environment(&mut self, name: &str, value: &str) {
            self.environment.push((name.into(), value.into()));
        }

        fn dotenv(&mut self, text: &str) {
            fs::write(self.folder.path().join(".env"), text).unwrap();
        }

        fn file(&mut self, text: &str) -> PathBuf {
            let path = self.folder.path().join("proxy.toml");
            fs::write(&path, text).unwrap();
            self.flag(&format!("--config={}", path.display()));
            path
        }

        fn command(&self) -> Result<Command, String> {
            let dotenv = self.folder.path().join(".env");
            Command::read(self.arguments.clone(), self.environment.clone(), &dotenv)
                .map_err(|error| error.to_string())
        }

        fn runs(&self) -> (Config, Vec<String>) {
            match self.command() {
                Ok(Command::Run { config, warnings }) => (*config, warnings),
                other => panic!("expected the proxy to run, not {other:?}"),
            }
        }

        fn printed(&self) -> String {
            match self.command() {
                Ok(Command::Print { text, .. }) => text,
                other => panic!("expected an answer, not {other:?}"),
            }
        }

        fn refused(&self) -> String {
            self.command().expect_err("expected a refusal")
        }
    }
}

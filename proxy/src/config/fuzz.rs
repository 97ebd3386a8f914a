//! Fuzz targets of the settings' own formats.

use std::fmt::Write;

use bolero::check;

use super::ListenAddrs;
use super::dotenv;

#[test]
fn dot_env() {
    check!().with_iterations(1000).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let pairs = match dotenv::parse(&text) {
            Ok(pairs) => pairs,
            Err((line, _)) => {
                assert!((1..=text.lines().count()).contains(&line), "there is no line {line}");
                return;
            }
        };
        let mut again = String::from("# as any value can be written\n");
        for (name, value) in &pairs {
            assert!(!name.is_empty() && !name.contains(char::is_whitespace), "{name:?}");
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            let value = value.replace('\n', "\\n").replace('\r', "\\r");
            writeln!(again, "export {name}=\"{value}\"").unwrap();
        }
        assert_eq!(dotenv::parse(&again), Ok(pairs));
    });
}

#[test]
fn listen_addresses() {
    check!().with_iterations(1000).with_max_len(300).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let Ok(addresses) = ListenAddrs::parse(&text) else { return };
        assert_eq!(ListenAddrs::parse(&addresses.to_string()), Ok(addresses.clone()));
        let mut bound = Vec::new();
        for socket in addresses.iter().flat_map(super::ListenAddr::sockets) {
            assert!(socket.port() == 0 || !bound.contains(&socket), "{socket} twice in {text:?}");
            bound.push(socket);
        }
    });
}

//! Numbered packets through the proxy: none is lost, while sessions move, restart and end.

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::rtc::{Client, Origin};
use srs_proxy_tests::whip::{self, Manner};
use srs_proxy_tests::{story, stun, wait};

const SOON: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_secs(30);
/// Packets a second of a publisher.
const RATE: u32 = 200;

#[test]
fn no_packet_is_lost_between_two_clients_of_one_stream() -> Result<()> {
    story(|folder| {
        let (proxy, origins) = start(folder)?;
        let publisher = Client::publish(proxy.http_api(), "show", RATE)?;
        let player = Client::play(proxy.http(), "show")?;
        for client in [&publisher, &player] {
            client.must_connect_within(SOON)?;
            let candidate = whip::attribute(&client.session().answer, "candidate")?;
            let of_the_proxy = format!(" 127.0.0.1 {} typ host", proxy.webrtc().port());
            assert!(candidate.contains(&of_the_proxy), "{candidate}");
        }
        let tally = player.must_get(5 * u64::from(RATE), A_WHILE)?;
        assert_eq!((tally.missing, tally.repeated), (0, 0), "{tally:?}");
        let mut sessions = origins.each_ref().map(Origin::sessions);
        sessions.sort_unstable();
        assert_eq!(sessions, [0, 2], "sessions at the two origins");
        let seen = proxy.media_of("show")?;
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen.iter().all(|it| it.protocol == "webrtc"), "{seen:?}");

        // Deleted here, closed there: the origin has heard of both.
        assert_eq!(publisher.session().delete()?.status(), 200);
        assert_eq!(proxy.ends("deleted")?, 1);
        player.hang_up()?;
        wait::until_true("both have left", SOON, || {
            Ok(proxy.media_of("show")?.is_empty()
                && origins.iter().all(|origin| origin.sessions() == 0))
        })
    })
}

#[test]
fn a_session_goes_on_from_a_new_port_and_with_new_credentials() -> Result<()> {
    story(|folder| {
        let (proxy, _origins) = start(folder)?;
        let publisher = Client::publish(proxy.http_api(), "show", RATE)?;
        let player = Client::play(proxy.http_api(), "show")?;
        player.must_get(u64::from(RATE), A_WHILE)?;
        for client in [&player, &publisher] {
            let old = client.address()?;
            client.move_to_new_port()?;
            assert_ne!(client.address()?, old);
            player.must_get(u64::from(RATE), SOON)?;
        }
        for client in [&player, &publisher] {
            client.restart_ice()?;
            player.must_get(u64::from(RATE), SOON)?;
            // The old credentials must not be what carries it.
            client.move_to_new_port()?;
            player.must_get(u64::from(RATE), SOON)?;
        }
        assert_eq!(proxy.media_of("show")?.len(), 2, "moved, not made anew");
        Ok(())
    })
}

#[test]
fn a_guessed_name_moves_no_session() -> Result<()> {
    story(|folder| {
        let (proxy, _origins) = start(folder)?;
        let _publisher = Client::publish(proxy.http_api(), "show", RATE)?;
        let player = Client::play(proxy.http_api(), "show")?;
        player.must_get(u64::from(RATE), A_WHILE)?;
        let before = player.tally();
        // The name is in the URL of the session and in each of its checks; the password is not.
        let name = player.session().name()?;
        let thief = UdpSocket::bind(("127.0.0.1", 0))?;
        thief.set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut stolen = 0;
        for number in 0..100_u8 {
            let forged = stun::request([number; 12], &name, "not the password at all")?;
            thief.send_to(&forged, proxy.webrtc())?;
            stolen += u32::from(thief.recv_from(&mut [0; 2000]).is_ok());
        }
        assert_eq!(stolen, 0, "datagrams that came to the thief");
        let tally = player.must_get(u64::from(RATE), SOON)?;
        assert_eq!((tally.missing, tally.repeated), (0, 0), "{tally:?} after {before:?}");
        Ok(())
    })
}

#[test]
fn what_the_origin_says_of_a_session_is_what_the_client_hears() -> Result<()> {
    story(|folder| {
        let (proxy, origins) = start(folder)?;
        let all = |manner: Manner| origins.iter().for_each(|it| it.behave(manner.clone()));
        all(Manner::AbsoluteLocation);
        let player = Client::play(proxy.http_api(), "show")?;
        player.must_connect_within(SOON)?;
        assert_eq!(player.session().server, proxy.http_api(), "the Location leads to the proxy");
        assert_eq!(player.session().patch("a=end-of-candidates\r\n")?.status(), 204);
        assert_eq!(player.session().delete()?.status(), 200);

        all(Manner::Bearer("secret"));
        let refusal = Client::play(proxy.http_api(), "show").err().context("it was let in")?;
        assert!(refusal.to_string().contains("401"), "{refusal}");
        all(Manner::Refuse("503 Busy", "Retry-After: 3\r\n", "later"));
        let refusal = Client::play(proxy.http_api(), "show").err().context("it was let in")?;
        assert!(refusal.to_string().contains("503") && refusal.to_string().contains("later"));
        assert!(proxy.media_of("show")?.is_empty(), "a refused offer is no session");
        Ok(())
    })
}

fn start(folder: &Path) -> Result<(Proxy, [Origin; 2])> {
    let origins = [Origin::start()?, Origin::start()?];
    let proxy = Proxy::start(folder, &[("PROXY_CANDIDATE", "127.0.0.1")])?;
    for (origin, name) in origins.iter().zip(["a", "b"]) {
        origin.register_at(proxy.system_api(), name)?;
    }
    Ok((proxy, origins))
}

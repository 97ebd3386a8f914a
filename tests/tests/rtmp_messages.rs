//! Sessions whose legs cannot be aligned, through a real origin: message by message, and yet
//! byte for byte.

use anyhow::{Context, Result};
use srs_proxy_tests::cluster::Cluster;
use srs_proxy_tests::flv::{self, Tag};
use srs_proxy_tests::rtmp::Client;
use srs_proxy_tests::{ffmpeg, story};

/// A client with two streams, of which it uses the second: nginx gives both the same id.
fn with_two_streams(cluster: &Cluster) -> Result<Client> {
    let mut client = Client::connect(cluster.proxy.rtmp())?;
    client.create_stream()?;
    Ok(client)
}

#[test]
fn media_is_the_same_byte_for_byte_where_messages_are_relayed() -> Result<()> {
    story(|folder| {
        let cluster = Cluster::start(folder, &[])?;
        let mut player = with_two_streams(&cluster)?;
        player.ask_to_play("two")?;
        player.expect("NetStream.Play.Start")?;
        let mut publisher = with_two_streams(&cluster)?;
        publisher.ask_to_publish("two")?;
        publisher.expect("NetStream.Publish.Start")?;

        let file = std::fs::read(ffmpeg::fixture())?;
        let sent: Vec<Tag> =
            flv::tags(&file)?.into_iter().take_while(|t| t.timestamp < 5000).collect();
        for tag in &sent {
            publisher.send_tag(tag)?;
        }
        let sessions = cluster.proxy.sessions_of("two")?;
        assert_eq!(sessions.len(), 2, "publisher and player");
        for session in sessions {
            assert_eq!(session.plane_reason, "the origin gave another stream id");
        }

        // nginx begins with the sequence header and the first picture.
        let video: Vec<&Tag> = sent.iter().filter(|tag| tag.kind == 9).collect();
        let mut received = Vec::new();
        while received.len() < video.len() {
            let tag = player.next_tag().with_context(|| format!("after {}", received.len()))?;
            if tag.kind == 9 {
                received.push(tag);
            }
        }
        for (number, (received, sent)) in received.iter().zip(video).enumerate() {
            assert!(received.data == sent.data, "picture {number} is another one");
        }
        Ok(())
    })
}

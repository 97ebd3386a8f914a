//! What Redis has of sessions and playlists, and the secret of all proxies.

use std::time::Duration;

use futures_util::future::try_join;
use redis::cmd;

use super::record;
use super::store::{RedisStore, millis};
use crate::cluster::store::{HlsRecord, RECORD_LIFE, StoreError, WebrtcRecord};
use crate::stream::StreamKey;

/// Of what stands beside a record: longer than the record itself.
const PLACE_LIFE: Duration = RECORD_LIFE.saturating_add(Duration::from_secs(10));

impl RedisStore {
    pub(super) async fn write_webrtc(&self, record: &WebrtcRecord) -> Result<(), StoreError> {
        let WebrtcRecord { name, stream, place } = record;
        let value = record::write_webrtc(record);
        let (of_stream, of_name) = (self.keys.rtc(stream), self.keys.ufrag(name));
        // Without its password anybody would be its client: the name comes last and goes first.
        if let Some(place) = place {
            self.set(&self.keys.place(name), &record::json(place), PLACE_LIFE).await?;
        }
        let plain =
            (self.set(&of_stream, &value, RECORD_LIFE), self.set(&of_name, &value, RECORD_LIFE));
        try_join(plain.0, plain.1).await?;
        Ok(())
    }

    pub(super) async fn read_webrtc(&self, name: &str) -> Result<Option<WebrtcRecord>, StoreError> {
        let (key, beside) = (self.keys.ufrag(name), self.keys.place(name));
        let Some(plain) = self.record(&key).await? else { return Ok(None) };
        let place = self.read(&beside, record::MAX_BYTES).await?;
        let Some((stream, _)) = record::read_webrtc(&plain.bytes).filter(|(_, it)| it == name)
        else {
            self.skip(&key, &"no session of WebRTC");
            return Ok(None);
        };
        let place = match place.map(|it| serde_json::from_slice(&it.bytes)).transpose() {
            Ok(place) => place,
            Err(error) => {
                self.skip(&beside, &error);
                return Ok(None);
            }
        };
        Ok(Some(WebrtcRecord { name: name.to_owned(), stream, place }))
    }

    pub(super) async fn delete_webrtc(&self, record: &WebrtcRecord) -> Result<(), StoreError> {
        let WebrtcRecord { name, stream, .. } = record;
        let of_stream = self.keys.rtc(stream);
        let last = async {
            let Some(last) = self.record(&of_stream).await? else { return Ok(()) };
            // Of several sessions of a stream this key names the last.
            if record::read_webrtc(&last.bytes).is_some_and(|(_, other)| other == *name) {
                self.swap(&of_stream, Some(&last.bytes), "", RECORD_LIFE).await?;
            }
            Ok(())
        };
        let (key, beside) = (self.keys.ufrag(name), self.keys.place(name));
        self.delete(&key).await?;
        try_join(self.delete(&beside), last).await?;
        Ok(())
    }

    pub(super) async fn write_hls(&self, record: &HlsRecord) -> Result<(), StoreError> {
        let value = record::write_hls(record);
        let (of_stream, of_id) = (self.keys.hls(&record.stream), self.keys.hls_id(&record.id));
        let set =
            (self.set(&of_stream, &value, RECORD_LIFE), self.set(&of_id, &value, RECORD_LIFE));
        try_join(set.0, set.1).await?;
        Ok(())
    }

    pub(super) async fn read_hls(&self, id: &str) -> Result<Option<StreamKey>, StoreError> {
        let key = self.keys.hls_id(id);
        let Some(value) = self.record(&key).await? else { return Ok(None) };
        let stream = record::read_hls(&value.bytes);
        if stream.is_none() {
            self.skip(&key, &"no playlist");
        }
        Ok(stream)
    }

    pub(super) async fn agree(&self, proposed: [u8; 32]) -> Result<[u8; 32], StoreError> {
        let key = self.keys.secret();
        let mut propose = cmd("SET");
        propose.arg(&key).arg(hex(&proposed)).arg("NX");
        let _: redis::Value = self.query(&key, &propose).await?;
        let agreed = self.record(&key).await?;
        let agreed = agreed.and_then(|it| unhex(&it.bytes));
        agreed.ok_or_else(|| StoreError::Malformed(format!("{key}: no secret of 64 hex digits")))
    }

    pub(super) async fn set(
        &self,
        key: &str,
        value: &str,
        life: Duration,
    ) -> Result<(), StoreError> {
        let mut set = cmd("SET");
        set.arg(key).arg(value).arg("PX").arg(millis(life));
        self.query(key, &set).await
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.query(key, cmd("DEL").arg(key)).await
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn unhex(text: &[u8]) -> Option<[u8; 32]> {
    let mut digits = text.iter().map(|digit| char::from(*digit).to_digit(16));
    let mut bytes = [0; 32];
    for byte in &mut bytes {
        *byte = u8::try_from(digits.next()?? * 16 + digits.next()??).ok()?;
    }
    digits.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_it_was_written() {
        let secret: [u8; 32] = std::array::from_fn(|n| u8::try_from(n * 8).unwrap());
        let text = hex(&secret);
        assert_eq!(text.len(), 64);
        assert_eq!(unhex(text.as_bytes()), Some(secret));
        for no_secret in ["", "00", &text[1..], &format!("{text}0"), &text.replace("08", "0g")] {
            assert_eq!(unhex(no_secret.as_bytes()), None, "{no_secret}");
        }
    }
}

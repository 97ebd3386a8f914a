use super::*;

#[test]
fn a_known_body_ends_after_its_bytes() {
    let mut reader = BodyReader::new(BodyLength::Known(3));
    assert_eq!(reader.read(b"abcd", &mut |_| {}), Ok(3));
    assert!(reader.is_done());
}

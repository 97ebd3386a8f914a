use super::*;

#[test]
fn a_plain_request_is_read() {
    let (head, length) =
        RequestHead::parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nnext").unwrap().unwrap();
    assert_eq!((head.method.as_str(), head.target.as_str(), length), ("GET", "/", 27));
}

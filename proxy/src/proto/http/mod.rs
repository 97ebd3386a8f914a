//! HTTP/1.0 and 1.1 (RFC 9110, RFC 9112): heads and the ends of bodies, of clients' requests and
//! origins' responses. What could be read in two ways is refused.

mod body;
mod head;
mod headers;
mod target;

pub use body::{BadBody, BodyLength, BodyReader};
pub use head::{BadHead, MAX_HEAD, MAX_HEADERS, RequestHead, ResponseHead, Version};
pub use headers::Headers;
pub use target::Target;

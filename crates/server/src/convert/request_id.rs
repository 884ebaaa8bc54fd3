//! Request ids: strict UUIDv7s, and the fingerprint by which a retry is told from another request.

use prost::Message;
use roadstead_core::id::RequestId;
use roadstead_core::request::Retry;
use uuid::{Uuid, Variant, Version};

use super::check::{At, Check};

/// The retry identity of a request: `id` as the caller gave it (made here if empty), and the fingerprint of its body.
pub fn retry(check: &mut Check, at: At<'_>, id: &str, fingerprint: u64) -> Option<Retry> {
    if id.is_empty() {
        return Some(Retry { id: RequestId(Uuid::now_v7().as_u128()), fingerprint });
    }
    match parse(id) {
        Some(id) => Some(Retry { id, fingerprint }),
        None => check.refuse(at, format_args!("{:?} is no UUIDv7, as in 01890a5d-ac96-774b-bcce-b302099a8057", super::excerpt(id))),
    }
}

/// Only the canonical form (36 characters, lower-case hexadecimal), version 7, the RFC's variant: one id has one spelling.
fn parse(text: &str) -> Option<RequestId> {
    let canonical = text.len() == 36 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    let id = Uuid::try_parse(text).ok().filter(|_| canonical)?;
    (id.get_version() == Some(Version::SortRand) && id.get_variant() == Variant::RFC4122).then(|| RequestId(id.as_u128()))
}

/// The first 8 bytes of a hash over a method and the encoding of a request's body, whose id has been emptied.
///
/// The encoding is deterministic: fields in the order of their numbers, maps in the order of their keys.
#[must_use]
pub fn fingerprint(method: &str, body: &impl Message) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(method.as_bytes());
    hasher.update(&[0]);
    hasher.update(&body.encode_to_vec());
    let hash = hasher.finalize();
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_of_a_version_7_is_an_id() {
        let good = Uuid::now_v7().to_string();
        assert!(parse(&good).is_some());
        let v4 = Uuid::new_v4().to_string();
        for bad in [good.to_uppercase(), good.replace('-', ""), format!("{{{good}}}"), v4, Uuid::nil().to_string(), "x".into()] {
            assert!(parse(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_fingerprint_tells_methods_and_bodies_apart() {
        let body = |name: &str| roadstead_api::v1::UndeleteTenantRequest { request_id: String::new(), name: name.into() };
        assert_eq!(fingerprint("a", &body("x")), fingerprint("a", &body("x")));
        assert_ne!(fingerprint("a", &body("x")), fingerprint("b", &body("x")));
        assert_ne!(fingerprint("a", &body("x")), fingerprint("a", &body("y")));
    }
}

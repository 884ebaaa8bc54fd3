//! Pages of one listing show one revision: a token pins the frozen copy that the first page was read from, for a minute at most.
//!
//! Tokens are opaque to callers: a version, the pin's number, the last name, a fingerprint of the question, and a checksum. They hold on
//! the replica that made them; elsewhere, or later, a listing has to start over.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use roadstead_core::state::State;
use tonic::Code;

use crate::errors::Fault;

/// How long a page token holds after it was given out: a person who reads on, not a job that comes back tomorrow.
pub const PIN_LIFE: Duration = Duration::from_secs(60);
/// Frozen copies that are kept for page tokens at a time: each keeps what has changed since in memory.
pub const MAX_PINS: usize = 64;

const VERSION: u8 = 1;
/// Bytes of a token before the name: version, server, pin, question.
const HEAD: usize = 1 + 8 + 8 + 8;

/// The pinned copies of one server.
#[derive(Debug)]
pub struct Pins {
    /// Told apart from other replicas, and from an earlier run of this one.
    server: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    pins: VecDeque<Pin>,
}

#[derive(Debug)]
struct Pin {
    number: u64,
    until: Instant,
    state: Arc<State>,
}

/// Where a listing goes on.
#[derive(Debug)]
pub struct Continued {
    /// The copy that the first page was read from.
    pub state: Arc<State>,
    /// The last name that was given out.
    pub after: String,
    pin: u64,
}

impl Pins {
    /// No pins; `server` is a number that no other server has.
    #[must_use]
    pub fn new(server: u64) -> Self {
        Self { server, inner: Mutex::default() }
    }

    /// A token for the page after `after`. `question` is a fingerprint of all that must stay the same from page to page.
    #[must_use]
    pub fn token(&self, state: &Arc<State>, from: Option<&Continued>, question: u64, after: &str, now: Instant) -> String {
        let pin = self.pin(state, from.map(|from| from.pin), now);
        let mut bytes = Vec::with_capacity(HEAD + after.len() + 4);
        bytes.push(VERSION);
        for number in [self.server, pin, question] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(after.as_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        hex(&bytes)
    }

    /// What a token stands for.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what is no token or belongs to another question; `OUT_OF_RANGE` with the reason `PAGE_TOKEN_EXPIRED` when it
    /// does not hold any more.
    pub fn resume(&self, token: &str, question: u64, now: Instant) -> Result<Continued, Fault> {
        let broken = || Fault::invalid("page_token", "is not a token that was given out; start over without one");
        let bytes = unhex(token).ok_or_else(broken)?;
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(broken)?;
        if body.len() < HEAD || body[0] != VERSION || crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return Err(broken());
        }
        let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes of a checked length"));
        let (server, pin, asked) = (number(1), number(9), number(17));
        let after = String::from_utf8(body[HEAD..].to_vec()).map_err(|_| broken())?;
        if asked != question {
            return Err(Fault::invalid(
                "page_token",
                "belongs to another listing: filter and consistency must stay the same from page to page",
            ));
        }
        if server != self.server {
            return Err(expired("was given out by another replica, or before this one was restarted"));
        }
        let state = self.renew(pin, now).ok_or_else(|| expired("is older than 60 s, or too many listings were begun since"))?;
        Ok(Continued { state, after, pin })
    }

    fn pin(&self, state: &Arc<State>, known: Option<u64>, now: Instant) -> u64 {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.pins.retain(|pin| pin.until > now);
        if let Some(pin) = inner.pins.iter_mut().find(|pin| Some(pin.number) == known || Arc::ptr_eq(&pin.state, state)) {
            pin.until = now + PIN_LIFE;
            return pin.number;
        }
        let number = inner.next;
        inner.next += 1;
        inner.pins.push_back(Pin { number, until: now + PIN_LIFE, state: Arc::clone(state) });
        if inner.pins.len() > MAX_PINS {
            inner.pins.pop_front();
        }
        number
    }

    fn renew(&self, number: u64, now: Instant) -> Option<Arc<State>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.pins.retain(|pin| pin.until > now);
        inner.pins.iter().find(|pin| pin.number == number).map(|pin| Arc::clone(&pin.state))
    }

    /// Frozen copies kept at the moment.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).pins.len()
    }
}

fn expired(why: &str) -> Fault {
    Fault::new(Code::OutOfRange, "PAGE_TOKEN_EXPIRED", format!("the page token {why}; start the listing over without a token"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_brings_back_the_same_copy_until_it_expires() {
        let (pins, start) = (Pins::new(7), Instant::now());
        let state = Arc::new(State::default());
        let token = pins.token(&state, None, 1, "acme", start);
        let continued = pins.resume(&token, 1, start + PIN_LIFE / 2).unwrap();
        assert!(Arc::ptr_eq(&continued.state, &state));
        assert_eq!(continued.after, "acme");
        let fault = pins.resume(&token, 1, start + PIN_LIFE).unwrap_err();
        assert_eq!((fault.code(), fault.reason()), (Code::OutOfRange, "PAGE_TOKEN_EXPIRED"));
        assert_eq!(pins.count(), 0, "an expired copy is let go");
    }

    #[test]
    fn a_token_of_another_question_server_or_making_is_refused() {
        let (pins, now) = (Pins::new(7), Instant::now());
        let token = pins.token(&Arc::new(State::default()), None, 1, "acme", now);
        assert_eq!(pins.resume(&token, 2, now).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(Pins::new(8).resume(&token, 1, now).unwrap_err().code(), Code::OutOfRange);
        let mut changed = token.clone().into_bytes();
        changed[60] ^= 1;
        for bad in [String::from_utf8(changed).unwrap(), token[2..].to_owned(), "zz".into(), "0".into(), "é".into()] {
            assert_eq!(pins.resume(&bad, 1, now).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn the_number_of_pinned_copies_is_bounded() {
        let (pins, now) = (Pins::new(7), Instant::now());
        let first = pins.token(&Arc::new(State::default()), None, 1, "a", now);
        for _ in 0..2 * MAX_PINS {
            let _ = pins.token(&Arc::new(State::default()), None, 1, "a", now);
        }
        assert_eq!(pins.count(), MAX_PINS);
        assert_eq!(pins.resume(&first, 1, now).unwrap_err().reason(), "PAGE_TOKEN_EXPIRED");
    }
}

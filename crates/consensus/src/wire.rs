//! What replicas say to each other: Raft messages, and a few words of our own, each with the group's id in front.
//!
//! Layout: kind (1 byte), group (16 bytes, little endian), body. Whatever a peer sends is checked here before raft-rs sees it: raft-rs
//! panics on messages that its own kind would never send.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType, Snapshot};

use crate::member::{GroupId, MemberId, Membership};

const KIND_RAFT: u8 = 0;
const KIND_DIGEST: u8 = 1;
const KIND_REMOVED: u8 = 2;
const KIND_SNAPSHOT_LOST: u8 = 3;
const KIND_FETCHING: u8 = 4;
const KIND_ASK: u8 = 5;
const HEADER_BYTES: usize = 17;
/// No index or term of a real group comes near; keeps sums from overflowing.
const MAX_NUMBER: u64 = 1 << 56;

/// Something that a peer says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Word {
    /// For raft-rs.
    Raft(Box<Message>),
    /// The leader's digest of its state after an entry.
    Digest { index: u64, digest: u64 },
    /// The receiver was removed from the group, and is not needed by anybody who might not know it yet.
    Removed,
    /// The sender could not fetch, read or install the snapshot that it was told of.
    SnapshotLost,
    /// The sender is fetching or installing a snapshot: a sign of life for whoever told it of one.
    Fetching,
    /// The sender has seen its own removal, or thinks so: may it stop?
    Ask,
}

impl Word {
    /// As it goes over the wire.
    pub(crate) fn encode(&self, group: GroupId) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Raft(_) => (KIND_RAFT, 0),
            Self::Digest { .. } => (KIND_DIGEST, 16),
            Self::Removed => (KIND_REMOVED, 0),
            Self::SnapshotLost => (KIND_SNAPSHOT_LOST, 0),
            Self::Fetching => (KIND_FETCHING, 0),
            Self::Ask => (KIND_ASK, 0),
        };
        let size = if let Self::Raft(message) = self { message.compute_size() as usize } else { body };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + size);
        bytes.push(kind);
        bytes.extend_from_slice(&group.0.to_le_bytes());
        match self {
            Self::Raft(message) => message.write_to_vec(&mut bytes).expect("a Raft message has no required fields"),
            Self::Digest { index, digest } => {
                bytes.extend_from_slice(&index.to_le_bytes());
                bytes.extend_from_slice(&digest.to_le_bytes());
            }
            Self::Removed | Self::SnapshotLost | Self::Fetching | Self::Ask => {}
        }
        bytes
    }

    /// From the wire.
    ///
    /// # Errors
    /// Plain words: another group's, or malformed.
    pub(crate) fn decode(bytes: Vec<u8>, group: GroupId) -> Result<Self, String> {
        let bytes = Bytes::from(bytes);
        if bytes.len() < HEADER_BYTES {
            return Err(format!("{} bytes are no message", bytes.len()));
        }
        let named = u128::from_le_bytes(bytes[1..HEADER_BYTES].try_into().expect("16 bytes were counted"));
        if named != group.0 {
            return Err(format!("it belongs to group {named:032x}"));
        }
        let body = bytes.slice(HEADER_BYTES..);
        match bytes[0] {
            KIND_RAFT => {
                Message::parse_from_carllerche_bytes(&body).map(|m| Self::Raft(Box::new(m))).map_err(|e| format!("no Raft message: {e}"))
            }
            KIND_DIGEST if body.len() == 16 => {
                let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("16 bytes were counted"));
                Ok(Self::Digest { index: number(0), digest: number(8) })
            }
            KIND_REMOVED if body.is_empty() => Ok(Self::Removed),
            KIND_FETCHING if body.is_empty() => Ok(Self::Fetching),
            KIND_ASK if body.is_empty() => Ok(Self::Ask),
            KIND_SNAPSHOT_LOST if body.is_empty() => Ok(Self::SnapshotLost),
            kind => Err(format!("kind {kind} with {} bytes is unknown", body.len())),
        }
    }
}

/// What is known of a snapshot on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SnapshotInfo {
    /// Term of its last entry.
    pub(crate) term: u64,
    /// Its last entry.
    pub(crate) index: u64,
    /// The group as of it.
    pub(crate) membership: Membership,
}

/// The description of a snapshot that Raft's message carries; its bytes travel apart.
pub(crate) fn describe(info: &SnapshotInfo) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = info.index;
    metadata.term = info.term;
    metadata.set_conf_state(info.membership.conf_state());
    snapshot.data = postcard::to_allocvec(&info.membership).expect("maps of texts can always be encoded").into();
    snapshot
}

/// Reads a description back.
///
/// # Errors
/// Plain words when it does not fit together.
pub(crate) fn described(snapshot: &Snapshot) -> Result<SnapshotInfo, String> {
    let metadata = snapshot.get_metadata();
    let membership: Membership = postcard::from_bytes(&snapshot.data).map_err(|e| format!("no snapshot's description: {e}"))?;
    if *metadata.get_conf_state() != membership.conf_state() || membership.voters.is_empty() || metadata.index == 0 || metadata.term == 0 {
        return Err("a snapshot's description contradicts itself".to_owned());
    }
    Ok(SnapshotInfo { term: metadata.term, index: metadata.index, membership })
}

/// What a message is checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Here {
    /// This member.
    pub(crate) id: MemberId,
    /// Last index of its log.
    pub(crate) last_index: u64,
    /// The term that it leads, if it does.
    pub(crate) leads: Option<u64>,
}

/// Refuses what raft-rs would panic on, and what a peer has no business to send.
///
/// # Errors
/// Plain words.
pub(crate) fn check(message: &Message, from: MemberId, here: Here) -> Result<(), String> {
    if message.from != from.0 || message.to != here.id.0 || from == here.id {
        return Err(format!("it claims to go from {:016x} to {:016x}", message.from, message.to));
    }
    let numbers = [message.term, message.log_term, message.index, message.commit, message.commit_term, message.reject_hint];
    if numbers.iter().any(|number| *number > MAX_NUMBER) || message.request_snapshot != 0 {
        return Err("a number is out of range".to_owned());
    }
    let kind = message.get_msg_type();
    let forwarded = kind == MessageType::MsgReadIndex;
    if forwarded != (message.term == 0) {
        return Err(format!("{kind:?} with term {}", message.term));
    }
    match kind {
        MessageType::MsgAppend => check_append(message),
        MessageType::MsgHeartbeat if message.commit > here.last_index => Err(format!(
            "it says that entry {} was acknowledged here, but the log ends at {}: was storage lost?",
            message.commit, here.last_index
        )),
        // Late, one may acknowledge what a leader sent before it crashed, and has lost since: no harm once it leads that term no more.
        MessageType::MsgAppendResponse if !message.reject && message.index > here.last_index && here.leads == Some(message.term) => {
            Err(format!("it acknowledges entry {}, but the log ends at {}", message.index, here.last_index))
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp if message.entries.len() != 1 => {
            Err("a read without its context".to_owned())
        }
        MessageType::MsgSnapshot => described(message.get_snapshot()).map(|_| ()),
        MessageType::MsgHeartbeat
        | MessageType::MsgAppendResponse
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgTimeoutNow => Ok(()),
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader => Err(format!("a peer has no business to send {kind:?}")),
    }
}

fn check_append(message: &Message) -> Result<(), String> {
    // raft-rs takes a term of 0 for that of any index outside its log.
    if (message.log_term == 0) != (message.index == 0) {
        return Err(format!("no entry {} is of term {}", message.index, message.log_term));
    }
    let mut expected = message.index;
    let mut term = message.log_term;
    for entry in message.get_entries() {
        expected += 1;
        if entry.index != expected || entry.term < term || entry.term > message.term || entry.term == 0 {
            return Err(format!("entry {} of term {} does not follow entry {} of term {term}", entry.index, entry.term, expected - 1));
        }
        term = entry.term;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::Entry;

    const GROUP: GroupId = GroupId(99);
    const HERE: Here = Here { id: MemberId(1), last_index: 10, leads: Some(5) };

    fn message(kind: MessageType) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        (message.from, message.to, message.term) = (2, 1, 5);
        message
    }

    #[test]
    fn words_survive_the_wire() {
        let mut append = message(MessageType::MsgAppend);
        append.mut_entries().push(Entry::default());
        for word in [
            Word::Raft(Box::new(append)),
            Word::Digest { index: 7, digest: 9 },
            Word::Removed,
            Word::SnapshotLost,
            Word::Fetching,
            Word::Ask,
        ] {
            assert_eq!(Word::decode(word.encode(GROUP), GROUP), Ok(word));
        }
    }

    #[test]
    fn another_group_is_not_heard() {
        assert!(Word::decode(Word::Removed.encode(GroupId(98)), GROUP).unwrap_err().contains("belongs to group"));
    }

    #[test]
    fn truncated_and_scribbled_bytes_are_refused_without_a_panic() {
        let bytes = Word::Raft(Box::new(message(MessageType::MsgHeartbeat))).encode(GROUP);
        for length in 0..bytes.len() {
            if let Ok(Word::Raft(message)) = Word::decode(bytes[..length].to_vec(), GROUP) {
                assert!(check(&message, MemberId(2), HERE).is_err(), "cut at {length}");
            }
        }
        assert!(Word::decode(vec![255; 40], GroupId(u128::MAX)).is_err());
    }

    #[test]
    fn what_raft_would_panic_on_is_refused() {
        let from = MemberId(2);
        let mut beyond = message(MessageType::MsgHeartbeat);
        beyond.commit = 11;
        let mut acknowledges_too_much = message(MessageType::MsgAppendResponse);
        acknowledges_too_much.index = 11;
        let mut gap = message(MessageType::MsgAppend);
        gap.index = 3;
        let mut entry = Entry::default();
        (entry.index, entry.term) = (5, 5);
        gap.mut_entries().push(entry);
        let mut empty_snapshot = message(MessageType::MsgSnapshot);
        empty_snapshot.mut_snapshot().mut_metadata().index = 4;
        let mut timeless = message(MessageType::MsgRequestVote);
        timeless.term = 0;
        let mut huge = message(MessageType::MsgAppend);
        huge.index = u64::MAX;
        for bad in [
            beyond,
            acknowledges_too_much,
            gap,
            empty_snapshot,
            timeless,
            huge,
            message(MessageType::MsgPropose),
            message(MessageType::MsgReadIndexResp),
        ] {
            assert!(check(&bad, from, HERE).is_err(), "{bad:?}");
        }
        assert!(check(&message(MessageType::MsgHeartbeat), MemberId(3), HERE).is_err(), "the sender is whoever the connection says");
        assert_eq!(check(&message(MessageType::MsgHeartbeat), from, HERE), Ok(()));
    }

    #[test]
    fn a_late_acknowledgement_of_what_was_lost_in_a_crash_is_no_alarm() {
        let mut late = message(MessageType::MsgAppendResponse);
        late.index = 11;
        for leads in [None, Some(6)] {
            assert_eq!(check(&late, MemberId(2), Here { leads, ..HERE }), Ok(()));
        }
    }
}

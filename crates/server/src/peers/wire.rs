//! To and from the wire between replicas.

use bytes::Bytes;
use roadstead_api::internal as wire;
use roadstead_api::internal::forwarded_answer::Answer as WireAnswer;
use roadstead_consensus::door::Answer;
use roadstead_consensus::member::MemberId;
use roadstead_core::codec;
use roadstead_core::id::{Incarnation, Revision};

/// An answer, as it goes back to the replica that forwarded the request.
pub(super) fn from_answer(ticket: u64, answer: Answer) -> wire::ForwardedAnswer {
    let mut revision = Revision::default();
    let answer = match answer {
        Answer::Outcome { outcome, revision: at } => {
            revision = at;
            WireAnswer::Outcome(Bytes::from(codec::encode_outcome(&outcome)))
        }
        Answer::NotLeader { leader } => WireAnswer::NotLeader(wire::NotLeader { leader: leader.map_or(0, |id| id.0) }),
        Answer::Unknown => WireAnswer::Unknown(wire::Unknown {}),
        Answer::Overloaded { retry_after_ms } => WireAnswer::OverloadedRetryAfterMs(retry_after_ms),
        Answer::Refused { why } => WireAnswer::Refused(why),
        Answer::Done { .. } => WireAnswer::Refused("a request was answered like a change of the group".to_owned()),
    };
    let (revision_index, revision_incarnation) = (revision.index, u32::from(revision.incarnation.0));
    wire::ForwardedAnswer { ticket, answer: Some(answer), revision_index, revision_incarnation }
}

/// The answer that came back. What cannot be read is unknown.
pub(super) fn to_answer(forwarded: wire::ForwardedAnswer) -> (u64, Answer) {
    let revision = to_revision(forwarded.revision_index, forwarded.revision_incarnation);
    let answer = match forwarded.answer {
        Some(WireAnswer::Outcome(bytes)) => match codec::decode_outcome(&bytes) {
            Ok(outcome) => Answer::Outcome { outcome, revision },
            Err(error) => {
                tracing::error!(%error, "the leader's answer cannot be read");
                Answer::Unknown
            }
        },
        Some(WireAnswer::NotLeader(wire::NotLeader { leader })) => Answer::NotLeader { leader: (leader != 0).then_some(MemberId(leader)) },
        Some(WireAnswer::OverloadedRetryAfterMs(retry_after_ms)) => Answer::Overloaded { retry_after_ms },
        Some(WireAnswer::Refused(why)) => Answer::Refused { why },
        Some(WireAnswer::Unknown(_)) | None => Answer::Unknown,
    };
    (forwarded.ticket, answer)
}

/// A revision from its parts.
pub(super) fn to_revision(index: u64, incarnation: u32) -> Revision {
    Revision { incarnation: Incarnation(u16::try_from(incarnation).unwrap_or(u16::MAX)), index }
}

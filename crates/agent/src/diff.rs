//! What would change of a tenant, as it is told to whoever asked.

use roadstead_api::v1::{self, ObjectDiff};
use serde::Serialize;

use crate::interpreter::Failed;

/// Bytes of an answer, about: what is larger than that nobody reads.
const MAX_BYTES: usize = 1 << 20;

/// A thing as people read it.
pub(crate) fn yaml(thing: &impl Serialize) -> String {
    serde_saphyr::to_string(thing).unwrap_or_else(|error| format!("(cannot be shown: {error})\n"))
}

/// An answer of bounded size to a question.
pub(crate) fn answer(uid: &str, id: String, found: Result<Vec<ObjectDiff>, Failed>) -> v1::AnswerDiffRequest {
    let mut answer = v1::AnswerDiffRequest { uid: uid.to_owned(), id, ..v1::AnswerDiffRequest::default() };
    match found {
        Err(failed) => answer.error = failed.to_string(),
        Ok(objects) => {
            let mut bytes = 0;
            let all = objects.len();
            let size = |diff: &ObjectDiff| diff.object.len() + diff.before.len() + diff.after.len() + diff.note.len();
            let fits = |diff: &ObjectDiff| {
                bytes += size(diff);
                bytes <= MAX_BYTES
            };
            answer.objects = objects.into_iter().take_while(fits).collect();
            answer.left_out = u32::try_from(all - answer.objects.len()).unwrap_or(u32::MAX);
        }
    }
    answer
}

//! A watch of one kind that goes on for ever: lists, then what changes, then again after whatever befell it. It does not know what is watched for.

use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, Error, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::pauses::Pauses;

/// HTTP's Gone: the place in history from which a watch was to go on is forgotten.
const GONE: u16 = 410;

/// What befalls the objects of a kind. Errors are told and tried again, after pauses that grow up to `longest`.
///
/// kube-runtime lists anew where a watch that is open says that its place is forgotten, and not where that is the answer to its opening: it would be
/// opened with the same place for ever, and nothing be seen. Such a watch ends here, after its error, and another one begins with a list.
pub(crate) fn events<K>(api: Api<K>, config: Config, longest: Duration) -> impl Stream<Item = Result<Event<K>, Error>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let fresh = move || {
        let watch = watcher::watcher(api.clone(), config.clone()).boxed();
        stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            let event = watch.next().await?;
            let is_refused = matches!(&event, Err(error @ Error::WatchStartFailed(_)) if is(error, &[GONE]));
            Some((event, (!is_refused).then_some(watch)))
        })
    };
    stream::repeat_with(fresh).flatten().backoff(Pauses::up_to(longest))
}

/// Whether an error is an answer of the API server with one of these codes.
pub(crate) fn is(error: &Error, codes: &[u16]) -> bool {
    let code = match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status)) => status.code,
        Error::WatchError(status) => status.code,
        Error::InitialListFailed(_) | Error::WatchStartFailed(_) | Error::WatchFailed(_) | Error::NoResourceVersion => return false,
    };
    codes.contains(&code)
}

//! One agent, put together: an interpreter, the loop, the conversation.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, QUEUE, Settings};
use crate::interpreter::{Failed, Interpreter};
use crate::session::Session;

/// Works until `stop` says otherwise. What is being carried out then is carried to its end; what runs goes on running.
///
/// # Errors
/// What was acted on last cannot be read.
pub async fn run<I: Interpreter>(interpreter: I, settings: Settings, session: Session, stop: CancellationToken) -> Result<(), Failed> {
    let mut engine = Engine::begin(interpreter, settings).await?;
    let ((heard, hears), (tell, told)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
    let session = session.run(heard, told);
    let working = tokio::spawn(async move { engine.run(hears, tell).await });
    tokio::select! {
        () = session => {}
        () = stop.cancelled() => {}
    }
    // The session is gone, and with it whoever the loop hears from: it ends.
    working.await.map_err(|error| Failed::Later { why: error.to_string(), after: None })
}

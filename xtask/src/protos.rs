//! The protos' lint and their compatibility with the committed baseline, both by buf.

use anyhow::Result;

use crate::run::{Outcome, Step, Summary, command, root};
use crate::tools;

/// What the protos must stay compatible with: buf's image of an earlier state, without comments.
const BASELINE: &str = "proto/baseline.binpb";

/// Lint: naming, comments, structure.
pub(crate) fn lint(step: &mut Step) -> Result<Outcome> {
    match tools::buf(step)? {
        Ok(buf) => step.all(&mut [{
            let mut lint = command(buf);
            lint.args(["lint", "proto"]);
            lint
        }]),
        Err(why) => Ok(Outcome::Missing(why)),
    }
}

/// No field, message or RPC of the baseline may have changed its meaning.
pub(crate) fn breaking(step: &mut Step) -> Result<Outcome> {
    if !root().join(BASELINE).exists() {
        return Ok(Outcome::failed(format!("{BASELINE} is missing; `cargo xtask proto-baseline` writes it")));
    }
    match tools::buf(step)? {
        Ok(buf) => step.all(&mut [{
            let mut breaking = command(buf);
            breaking.args(["breaking", "proto", "--against", BASELINE]);
            breaking
        }]),
        Err(why) => Ok(Outcome::Missing(why)),
    }
}

/// Writes the baseline.
pub(crate) fn write_baseline() -> Result<bool> {
    let mut summary = Summary::new();
    summary.step("proto-baseline", false, |step| match tools::buf(step)? {
        Ok(buf) => step.all(&mut [{
            let mut build = command(buf);
            build.args(["build", "proto", "--exclude-source-info", "-o", BASELINE]);
            build
        }]),
        Err(why) => Ok(Outcome::Missing(why)),
    })?;
    Ok(summary.print())
}

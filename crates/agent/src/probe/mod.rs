//! Whether the cluster's network keeps to NetworkPolicies, found by trying: a policy that nothing enforces looks like any other.
//!
//! Two pods in the agent's own namespace, under policies that `roadstead join` puts there: one [`listen`]s on three ports, the other
//! [`dial`]s them. The first port is allowed to both. The second is denied by the listener's policy for what comes in, the third by the
//! dialer's for what goes out. Modules in reading order: [`judge`] (what follows from what was reached; pure), [`mod@listen`] and [`mod@dial`] (what
//! runs in the two pods), [`pods`] (what they are), [`keep`] (when it is tried, and carrying it out).

mod dial;
mod judge;
mod keep;
mod listen;
mod pods;

pub use dial::dial;
pub use keep::{Probe, TRY_AGAIN_EVERY, TRY_EVERY};
pub use listen::listen;
pub use pods::{DIALER, LABEL, LISTENER};

/// Allowed to both pods: what is not reached here says nothing of policies.
pub const OPEN_PORT: u16 = 7431;
/// Denied by the listener's policy.
pub const NO_INGRESS_PORT: u16 = 7432;
/// Denied by the dialer's policy.
pub const NO_EGRESS_PORT: u16 = 7433;

//! What is wrong with a class or with values, said of a field as documents write it.

use std::fmt;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The field, as in `spec.network.egress[0].cidr`.
    pub field: String,
    /// What is wrong, and what to do about it.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// Problems of one class that are noted: more than anybody reads at a time.
const MAX_FINDINGS: usize = 1024;

/// Problems as they are found.
#[derive(Debug, Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Findings {
    /// Notes one, unless it is known already or there are very many.
    pub(crate) fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        let finding = Finding { field: field.into(), problem: problem.into() };
        if self.0.len() < MAX_FINDINGS && !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }
}

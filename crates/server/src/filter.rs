//! The filter language of `ListTenants`: terms joined by AND, with the position in every error.
//!
//! `cluster = "c"`, `shard = 3`, `owner = "o"`, `class = "shop"`, `version = "1.0.0"`, `phase = PENDING`, `misplaced = true`,
//! `name : "prefix*"`. Words may be quoted or, if they hold no space, bare.

use roadstead_core::id::{ClusterId, Owner};
use roadstead_core::tenant::{Phase, Tenant};

/// The longest filter in bytes.
pub const MAX_FILTER_BYTES: usize = 4096;

/// A parsed filter; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Bound to the cluster of this name.
    pub cluster: Option<String>,
    /// In the shard of this number.
    pub shard: Option<u16>,
    /// Of this owner.
    pub owner: Option<Owner>,
    /// Of this class.
    pub class: Option<String>,
    /// Of this version of a class.
    pub version: Option<String>,
    /// In this phase.
    pub phase: Option<PhaseWord>,
    /// Misplaced, or not.
    pub misplaced: Option<bool>,
    /// Whose name begins so.
    pub prefix: Option<String>,
}

/// A phase as filters write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhaseWord {
    /// Waits for room.
    Pending,
    /// Has a place, not yet seen running.
    Placed,
    /// Seen running.
    Running,
    /// Deleted, not yet stopped.
    Releasing,
    /// Stopped, volumes kept.
    Retained,
    /// Its volumes are being deleted.
    Purging,
}

/// What is wrong with a filter, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {position}: {problem}")]
pub struct FilterError {
    /// Byte from the beginning of the text.
    pub position: usize,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl Filter {
    /// Reads a filter; empty is everything.
    ///
    /// # Errors
    /// The first thing that is wrong, with its position.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > MAX_FILTER_BYTES {
            let problem = format!("the filter has {} bytes, at most {MAX_FILTER_BYTES} are allowed", text.len());
            return Err(FilterError { position: MAX_FILTER_BYTES, problem });
        }
        let mut parser = Parser { text, position: 0 };
        let mut filter = Self::default();
        parser.skip_spaces();
        while parser.position < text.len() {
            parser.term(&mut filter)?;
            parser.skip_spaces();
            if parser.position == text.len() {
                break;
            }
            parser.and()?;
        }
        Ok(filter)
    }

    /// Whether a tenant is meant. `cluster` is the number of the cluster that is named, if one is.
    #[must_use]
    pub fn matches(&self, tenant: &Tenant, cluster: Option<ClusterId>) -> bool {
        let binding = tenant.phase.binding();
        let spec = &tenant.spec;
        (self.cluster.is_none() || (cluster.is_some() && binding.map(|binding| binding.cluster) == cluster))
            && self.shard.is_none_or(|shard| binding.is_some_and(|binding| binding.shard.0 == shard))
            && self.owner.as_ref().is_none_or(|owner| spec.owner == *owner)
            && self.class.as_ref().is_none_or(|class| spec.class.as_str() == class)
            && self.version.as_ref().is_none_or(|version| spec.version == *version)
            && self.phase.is_none_or(|phase| phase.matches(&tenant.phase))
            && self.misplaced.is_none_or(|misplaced| tenant.misplaced == misplaced)
            && self.prefix.as_ref().is_none_or(|prefix| spec.name.as_str().starts_with(prefix.as_str()))
    }
}

impl PhaseWord {
    const NAMES: [(&'static str, Self); 6] = [
        ("PENDING", Self::Pending),
        ("PLACED", Self::Placed),
        ("RUNNING", Self::Running),
        ("RELEASING", Self::Releasing),
        ("RETAINED", Self::Retained),
        ("PURGING", Self::Purging),
    ];

    fn matches(self, phase: &Phase) -> bool {
        match phase {
            Phase::Pending { .. } => self == Self::Pending,
            Phase::Bound { running: false, .. } => self == Self::Placed,
            Phase::Bound { running: true, .. } => self == Self::Running,
            Phase::Releasing { .. } => self == Self::Releasing,
            Phase::Retained { .. } => self == Self::Retained,
            Phase::Purging { .. } => self == Self::Purging,
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    position: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.position..]
    }

    fn skip_spaces(&mut self) {
        self.position += self.rest().len() - self.rest().trim_start().len();
    }

    fn error<T>(position: usize, problem: impl Into<String>) -> Result<T, FilterError> {
        Err(FilterError { position, problem: problem.into() })
    }

    fn and(&mut self) -> Result<(), FilterError> {
        let start = self.position;
        let word = self.bare();
        if !word.eq_ignore_ascii_case("and") {
            return Self::error(start, format!("expected AND, found {:?}", crate::convert::excerpt(self.text[start..].trim_end())));
        }
        self.skip_spaces();
        if self.position == self.text.len() {
            return Self::error(self.position, "expected a term after AND");
        }
        Ok(())
    }

    fn term(&mut self, filter: &mut Filter) -> Result<(), FilterError> {
        let start = self.position;
        let field = self.bare();
        self.skip_spaces();
        let operator_at = self.position;
        let operator = self.rest().chars().next().unwrap_or(' ');
        let wanted = if field == "name" { ':' } else { '=' };
        if !matches!(field, "cluster" | "shard" | "owner" | "class" | "version" | "phase" | "misplaced" | "name") {
            let known = "cluster, shard, owner, class, version, phase, misplaced, name";
            return Self::error(start, format!("{:?} is no field to filter by; known are {known}", crate::convert::excerpt(field)));
        }
        if operator != wanted {
            let example = if wanted == ':' { "name : \"prefix*\"" } else { "field = value" };
            return Self::error(operator_at, format!("expected {wanted:?} after {field}, as in {example}"));
        }
        self.position += 1;
        self.skip_spaces();
        let value_at = self.position;
        let value = self.value()?;
        set(filter, field, &value)
            .map_err(|problem| FilterError { position: value_at, problem })?
            .then_some(())
            .map_or_else(|| Self::error(start, format!("{field} is given twice; all terms must hold, so give it once")), Ok)
    }

    fn bare(&mut self) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '=' | ':' | '"')).unwrap_or(rest.len());
        self.position += end;
        &rest[..end]
    }

    fn value(&mut self) -> Result<String, FilterError> {
        let start = self.position;
        let rest = self.rest();
        if let Some(quoted) = rest.strip_prefix('"') {
            let Some(end) = quoted.find('"') else { return Self::error(start, "the quotation has no end") };
            self.position += end + 2;
            return Ok(quoted[..end].to_owned());
        }
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        if end == 0 {
            return Self::error(start, "expected a value");
        }
        self.position += end;
        Ok(rest[..end].to_owned())
    }
}

/// Sets a field; `false` if it was set before.
fn set(filter: &mut Filter, field: &str, value: &str) -> Result<bool, String> {
    fn once<T>(slot: &mut Option<T>, value: T) -> bool {
        slot.replace(value).is_none()
    }
    Ok(match field {
        "cluster" => once(&mut filter.cluster, value.to_owned()),
        "shard" => once(&mut filter.shard, value.parse().map_err(|_| format!("{value:?} is no shard: a number up to 65535"))?),
        "owner" => once(&mut filter.owner, Owner::new(value).map_err(|error| format!("{value:?} is no owner: {error}"))?),
        "class" => once(&mut filter.class, value.to_owned()),
        "version" => once(&mut filter.version, value.to_owned()),
        "phase" => once(&mut filter.phase, phase(value)?),
        "misplaced" => once(&mut filter.misplaced, value.parse().map_err(|_| format!("{value:?} must be true or false"))?),
        _ => match value.strip_suffix('*') {
            Some(prefix) if !prefix.contains('*') => once(&mut filter.prefix, prefix.to_owned()),
            Some(_) | None => return Err(format!("{value:?} must be a prefix that ends in '*', as in \"shop-*\"")),
        },
    })
}

fn phase(value: &str) -> Result<PhaseWord, String> {
    let known = PhaseWord::NAMES.iter().find(|(name, _)| value.eq_ignore_ascii_case(name) || value.strip_prefix("PHASE_") == Some(name));
    known.map(|(_, phase)| *phase).ok_or_else(|| format!("{value:?} is no phase: PENDING, PLACED, RUNNING, RELEASING, RETAINED"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_terms_are_read() {
        let filter =
            Filter::parse(r#" cluster = "eu-1" AND shard=3 and owner = acme AND phase = PENDING AND misplaced = true AND name : "shop-*""#)
                .unwrap();
        assert_eq!(filter.cluster.as_deref(), Some("eu-1"));
        assert_eq!(filter.shard, Some(3));
        assert_eq!(filter.owner.unwrap().as_str(), "acme");
        assert_eq!(filter.phase, Some(PhaseWord::Pending));
        assert_eq!(filter.misplaced, Some(true));
        assert_eq!(filter.prefix.as_deref(), Some("shop-"));
        assert_eq!(Filter::parse("  ").unwrap(), Filter::default());
    }

    #[test]
    fn an_error_tells_its_position() {
        for (text, position, words) in [
            ("colour = red", 0, "is no field"),
            ("cluster eu-1", 8, "expected '='"),
            ("cluster = ", 10, "expected a value"),
            ("cluster = \"eu", 10, "no end"),
            ("cluster = a OR shard = 1", 12, "expected AND"),
            ("cluster = a AND", 15, "after AND"),
            ("shard = many", 8, "is no shard"),
            ("phase = GONE", 8, "is no phase"),
            ("name : shop", 7, "ends in '*'"),
            ("name = \"shop*\"", 5, "expected ':'"),
            ("shard = 1 AND shard = 2", 14, "twice"),
            ("é = 1", 0, "is no field"),
        ] {
            let error = Filter::parse(text).unwrap_err();
            assert_eq!(error.position, position, "{text}: {error}");
            assert!(error.problem.contains(words), "{text}: {error}");
        }
    }
}

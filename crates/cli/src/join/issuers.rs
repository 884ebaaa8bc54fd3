//! Whether any replica issues certificates: where none does, a token lets nobody in.

use std::collections::BTreeSet;

use roadstead_api::v1;

/// What replicas said of themselves, each with its address: its status, or why there is none.
pub type Answers = [(String, Result<v1::GetStatusResponse, String>)];

/// Whether certificates are issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Issuers {
    /// Some replica does.
    Some,
    /// Every member said that it does not.
    None,
    /// None of those that answered does; of others it is not known, and why.
    Unknown(Vec<String>),
}

/// What is known from what replicas said.
#[must_use]
pub fn issuers(answers: &Answers) -> Issuers {
    let (mut members, mut heard, mut unknown) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for (address, answer) in answers {
        match answer {
            Err(why) => unknown.push(format!("{address} did not answer: {why}")),
            Ok(status) => {
                members.extend(status.members.iter().map(|member| member.id.as_str()));
                match status.issues_certificates {
                    Some(true) => return Issuers::Some,
                    Some(false) => {
                        heard.insert(status.member_id.as_str());
                    }
                    None => unknown.push(format!("{address} does not say: its version is {}", status.version)),
                }
            }
        }
    }
    if !heard.is_empty() && members.is_subset(&heard) {
        // Whoever does not answer is reached under another address, or is no member.
        return Issuers::None;
    }
    if unknown.is_empty() {
        unknown.extend(members.difference(&heard).map(|member| format!("member {member} was not asked")));
    }
    Issuers::Unknown(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(member: &str, members: &[&str], issues: Option<bool>) -> (String, Result<v1::GetStatusResponse, String>) {
        let members = members.iter().map(|id| v1::Member { id: (*id).to_owned(), ..v1::Member::default() }).collect();
        let found = v1::GetStatusResponse { member_id: member.to_owned(), members, issues_certificates: issues, ..Default::default() };
        (format!("{member}:7420"), Ok(found))
    }

    fn silent(member: &str) -> (String, Result<v1::GetStatusResponse, String>) {
        (format!("{member}:7420"), Err("refused".to_owned()))
    }

    #[test]
    fn one_that_issues_is_enough() {
        assert_eq!(issuers(&[silent("a"), status("b", &["a", "b"], Some(true))]), Issuers::Some);
    }

    #[test]
    fn nobody_issues_only_if_every_member_says_so() {
        let all = ["a", "b"];
        let no = Some(false);
        assert_eq!(issuers(&[status("a", &all, no), status("b", &all, no)]), Issuers::None);
        assert_eq!(issuers(&[silent("old"), status("a", &all, no), status("b", &all, no)]), Issuers::None);
        let unknown = |answers: &Answers, words: &str| match issuers(answers) {
            Issuers::Unknown(why) => assert!(why.iter().any(|why| why.contains(words)), "{why:?}"),
            known @ (Issuers::Some | Issuers::None) => panic!("{known:?}"),
        };
        unknown(&[status("a", &all, no), silent("b")], "b:7420 did not answer: refused");
        unknown(&[status("a", &all, no), status("b", &all, None)], "b:7420 does not say");
        unknown(&[status("a", &all, no), status("a", &all, no)], "member b was not asked");
        unknown(&[silent("a")], "a:7420 did not answer");
    }
}

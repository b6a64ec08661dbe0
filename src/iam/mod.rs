//! Who there is: accounts, their users and roles, access keys, and the sessions of both.
//!
//! All but sessions are records of the ledger, changed in audited transactions. A session is in its token, sealed
//! (`token`). This layer says whose a credential is ([`Iam::credential`]) and what that one's policies are; it
//! authorizes nothing, and policy documents are text to it: the layers above parse them, and pass a function that
//! refuses a malformed one ([`CheckPolicy`]).
//!
//! | file | has |
//! |---|---|
//! | `name` | the rules for names, and how requests name principals |
//! | `records` | what the catalog keeps |
//! | `base` | [`Iam`]: what all others use |
//! | `accounts`, `principals`, `access_keys` | operations on records |
//! | `departed` | what a deleted principal leaves behind |
//! | `token` | the bytes of a session |
//! | `known` | what was read and opened before |
//! | `credential` | from an access key id to secret and principal |
//! | `sts` | opening sessions |

mod access_keys;
mod accounts;
mod base;
mod credential;
mod departed;
mod known;
mod name;
mod principals;
mod records;
mod sts;
mod token;

pub use access_keys::{AccessKey, MAX_ACCESS_KEYS, NewAccessKey};
pub use accounts::MAX_ACCOUNTS;
pub use base::{CheckEditedPolicy, CheckPolicy, Iam, Of};
pub use credential::{Credential, Principal, PrincipalKind};
pub use departed::{Departed, Elsewhere, RenameRecords};
pub use name::{PrincipalRef, Sort, Tags, check_account, is_account};
pub use principals::{
    MAX_POLICIES, MAX_ROLES, MAX_SESSION_SECONDS, MAX_TRUST, MAX_USERS, NewRole, NewUser, UserOrRole,
};
pub use records::{Account, Role, User};
pub use sts::{AssumeRole, AssumedRole, CallerIdentity, MAX_SESSION_POLICY, SessionCredentials};
pub use token::MAX_TOKEN;

#[cfg(test)]
mod testing;

#[cfg(test)]
#[path = "iam_tests.rs"]
mod tests;

//! States and kinds, as programs read them: one word each, on the wire and in tables.

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// Returns its word.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.word())
            }
        }
    };
}

words! {
    /// The state of a volume.
    VolumeState {
        /// No client holds it.
        Available = "available",
        /// A client holds it.
        InUse = "in-use",
        /// Its data key is wiped until it is resumed.
        Suspended = "suspended",
        /// Its file is missing or too short.
        Error = "error",
    }
}

words! {
    /// The state of a snapshot. Also what the catalog keeps of it.
    SnapshotState {
        /// Its point in time is fixed; chunks are being copied.
        Pending = "pending",
        /// It is whole and signed.
        Completed = "completed",
        /// It failed.
        Error = "error",
        /// Hidden from every list; what is left of it is being removed.
        Deleting = "deleting",
    }
}

words! {
    /// The mode of a snapshot's lock (EC2 API Reference, LockSnapshot).
    LockMode {
        /// An administrator can take it back.
        Governance = "governance",
        /// Nobody can take it back once its cooling-off period is over.
        Compliance = "compliance",
    }
}

words! {
    /// The state of a snapshot's lock (EC2 API Reference, LockSnapshot).
    LockState {
        /// Locked in governance mode.
        Governance = "governance",
        /// Locked in compliance mode; can still be taken back.
        ComplianceCooloff = "compliance-cooloff",
        /// Locked in compliance mode; can only be extended.
        Compliance = "compliance",
        /// No longer locked.
        Expired = "expired",
    }
}

words! {
    /// What identifies a client that may use volumes.
    AccessKind {
        /// A name in its certificate, or the certificate's fingerprint.
        Certificate = "certificate",
        /// A token in the export's name.
        Token = "token",
        /// Its uid on this machine.
        LocalUser = "local user",
    }
}

words! {
    /// What a principal is.
    PrincipalSort {
        /// A user.
        User = "user",
        /// A role.
        Role = "role",
    }
}

words! {
    /// The type of a CMK's key material.
    KeySpec {
        /// AES-256-GCM, for encryption and decryption.
        SymmetricDefault = "SYMMETRIC_DEFAULT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_the_same_word_on_the_wire_and_in_a_table() {
        for state in [VolumeState::Available, VolumeState::InUse, VolumeState::Suspended, VolumeState::Error] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.to_string());
        }
        assert_eq!(serde_json::from_str::<SnapshotState>("\"deleting\"").unwrap(), SnapshotState::Deleting);
        assert!(serde_json::from_str::<SnapshotState>("\"Completed\"").is_err());
    }
}

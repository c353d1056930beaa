//! Keys that clients and operators show, which the configuration names without holding them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// SHA-256 of a key. Keys are compared by it, so how long a comparison takes says nothing of them.
pub(crate) type KeyHash = [u8; 32];

/// Where a key, or its hash, is found. Exactly one field is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Secret {
    /// The key's SHA-256 in hexadecimal digits, as `printf %s KEY | sha256sum` prints it.
    pub sha256: Option<String>,
    /// The environment variable that holds the key.
    pub env: Option<String>,
    /// The file that holds the key, white space around it not counted.
    pub file: Option<PathBuf>,
}

impl Secret {
    /// Whether both are the same key, as far as that can be told without looking for them.
    pub(crate) fn is_written_as(&self, other: &Self) -> bool {
        match (&self.sha256, &other.sha256) {
            (Some(own), Some(others)) => own.eq_ignore_ascii_case(others),
            (Some(_), None) | (None, Some(_)) => false,
            (None, None) => self == other,
        }
    }

    /// The hash of the key.
    ///
    /// # Errors
    ///
    /// Says what is wrong and never what the key is.
    pub(crate) fn hash(&self) -> Result<KeyHash, String> {
        match (&self.sha256, &self.env, &self.file) {
            (Some(hex), None, None) => {
                from_hex(hex).ok_or_else(|| "sha256: must be 64 hexadecimal digits".to_owned())
            }
            _ => self.reveal().map(|key| hash_key(key.as_bytes())),
        }
    }

    /// The key itself, to be shown to somebody else.
    ///
    /// # Errors
    ///
    /// As [`Self::hash`]; and where there is only a hash.
    pub(crate) fn reveal(&self) -> Result<String, String> {
        match (&self.sha256, &self.env, &self.file) {
            (Some(_), None, None) => {
                Err("sha256: a hash opens nothing; give env or file".to_owned())
            }
            (None, Some(name), None) => match std::env::var(name) {
                Ok(key) if !key.is_empty() => Ok(key),
                // It may be the key itself.
                _ if !is_variable(name) => Err("env: must be the name of a variable".to_owned()),
                _ => Err(format!("env: the variable {name} is not set")),
            },
            (None, None, Some(file)) => match std::fs::read_to_string(file) {
                Ok(key) if !key.trim().is_empty() => Ok(key.trim().to_owned()),
                Ok(_) => Err(format!("file: {} is empty", file.display())),
                Err(error) => Err(format!("file: cannot read {}: {error}", file.display())),
            },
            _ => Err("give exactly one of sha256, env and file".to_owned()),
        }
    }
}

/// Whether `name` can be that of a variable.
fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_')
}

/// What a key is known by.
pub(crate) fn hash_key(key: &[u8]) -> KeyHash {
    Sha256::digest(key).into()
}

fn from_hex(text: &str) -> Option<KeyHash> {
    let digits = text.as_bytes().as_chunks::<2>();
    let mut hash = KeyHash::default();
    if digits.0.len() != hash.len() || !digits.1.is_empty() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.0) {
        let pair = std::str::from_utf8(pair).ok().filter(|it| !it.starts_with('+'))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_each_place() {
        let hex = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
        let by_hash = Secret { sha256: Some(hex.to_owned()), ..Secret::default() };
        assert_eq!(by_hash.hash().unwrap(), hash_key(b"foo"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, " foo\n").unwrap();
        let by_file = Secret { file: Some(file), ..Secret::default() };
        assert_eq!(by_file.hash().unwrap(), hash_key(b"foo"));
        let path = std::env::var("PATH").unwrap();
        let by_env = Secret { env: Some("PATH".to_owned()), ..Secret::default() };
        assert_eq!(by_env.hash().unwrap(), hash_key(path.as_bytes()));
    }

    #[test]
    fn a_secret_that_is_none_says_what_to_write() {
        let told = |secret: Secret| secret.hash().unwrap_err();
        assert!(told(Secret::default()).contains("exactly one"));
        for hex in ["", "2c", &"+1".repeat(32), &"zz".repeat(32), &"ab".repeat(33)] {
            let secret = Secret { sha256: Some(hex.to_owned()), ..Secret::default() };
            assert!(told(secret).contains("64 hexadecimal digits"), "{hex}");
        }
        let missing = Secret { env: Some("NO_SUCH_VARIABLE".to_owned()), ..Secret::default() };
        assert!(told(missing).contains("NO_SUCH_VARIABLE is not set"));
    }
}

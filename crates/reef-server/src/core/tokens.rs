//! Tokens: their digests, and files of them.
//!
//! Invariants: of a token only its digest is kept, and neither is ever printed; digests are compared in
//! constant time where a client's is looked for.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use subtle::{Choice, ConstantTimeEq};

/// Letters that a token has at least: what is shorter can be guessed.
pub const TOKEN_LEN_MIN: usize = 16;

/// Bytes of a file of tokens at most.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The SHA-256 digest of a token.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Of this token; an error if it is too short or has letters that no header can carry.
    pub fn of(token: &str) -> Result<TokenDigest, String> {
        if token.len() < TOKEN_LEN_MIN {
            return Err(format!("a token has at least {TOKEN_LEN_MIN} letters"));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a token has no spaces and only letters of ASCII".into());
        }
        Ok(Self::digest(token.as_bytes()))
    }

    /// Written as 64 hexadecimal digits, as `sha256sum` writes it.
    pub fn from_hex(text: &str) -> Result<TokenDigest, String> {
        let wrong = || "a SHA-256 digest has 64 hexadecimal digits".to_string();
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut digest = [0; 32];
        for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(TokenDigest(digest))
    }

    pub(crate) fn digest(token: &[u8]) -> TokenDigest {
        let digest = ring::digest::digest(&ring::digest::SHA256, token);
        TokenDigest(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Whether it is that one, in a time that does not depend on either.
    pub(crate) fn is(&self, other: &TokenDigest) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

/// A file with a token per line: two while one replaces the other.
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
    tokens: Vec<TokenDigest>,
    /// What was last said to be wrong with it.
    complaint: Option<String>,
}

impl TokenFile {
    /// Reads it; what is wrong with it, else, without what stands in it.
    pub fn read(path: impl Into<PathBuf>) -> Result<TokenFile, String> {
        let path = path.into();
        let cannot = |why: &dyn fmt::Display| format!("cannot read {}: {why}", path.display());
        let mut text = String::new();
        let file = File::open(&path).map_err(|error| cannot(&error))?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| cannot(&error))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(cannot(&format_args!("it has more than {FILE_BYTES_MAX} bytes")));
        }
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let tokens = lines.map(TokenDigest::of).collect::<Result<Vec<_>, _>>();
        let tokens = tokens.map_err(|why| format!("{}: {why}", path.display()))?;
        match tokens.is_empty() {
            true => Err(format!("there is no token in {}", path.display())),
            false => Ok(TokenFile { path, tokens, complaint: None }),
        }
    }

    /// The digests of its tokens.
    pub fn tokens(&self) -> &[TokenDigest] {
        &self.tokens
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn read_again(&self) -> Result<TokenFile, String> {
        TokenFile::read(&self.path)
    }

    /// Whether this has not been said of it yet.
    pub(crate) fn complain(&mut self, why: &str) -> bool {
        self.complaint.replace(why.to_string()).as_deref() != Some(why)
    }
}

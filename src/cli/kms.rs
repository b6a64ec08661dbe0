//! `coffer kms`: any operation of AWS's KMS API, with its parameters and its answer as JSON.

use crate::document::Document;
use crate::error::{Error, IoContext, Kind, Result};
use crate::service::operations::CallAws;
use clap::Args;
use serde_json::Value;
use std::io::Read;
use std::path::PathBuf;
use zeroize::Zeroizing;

#[derive(Debug, Args)]
pub(super) struct KmsArgs {
    /// The operation, as create-key or CreateKey
    operation: String,
    /// File with its parameters, a JSON object with AWS's names; - for standard input [default: no parameters]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

/// The largest parameters, bytes.
const MAX_INPUT: u64 = 1 << 20;

/// `create-key` as AWS writes it: `CreateKey`.
fn name(operation: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect::<String>())
    };
    operation.split('-').map(word).collect()
}

impl KmsArgs {
    /// The request.
    ///
    /// # Errors
    /// [`Kind::Usage`] for parameters that are no JSON object; what reading them reports.
    pub(super) fn request(&self) -> Result<CallAws> {
        let mut text = Zeroizing::new(String::new());
        let read = |from: &mut dyn Read, to: &mut String| from.take(MAX_INPUT + 1).read_to_string(to);
        match &self.input {
            None => "{}".clone_into(&mut text),
            Some(path) if path.as_os_str() == "-" => {
                read(&mut std::io::stdin(), &mut text).on(|| "read the parameters from standard input".to_owned())?;
            }
            Some(path) => {
                let what = || format!("read the parameters in {}", path.display());
                read(&mut std::fs::File::open(path).on(what)?, &mut text).on(what)?;
            }
        }
        if text.len() as u64 > MAX_INPUT {
            return Err(Error::new(Kind::Usage, format!("the parameters are longer than {MAX_INPUT} bytes")));
        }
        let input: Value = serde_json::from_str(&text).map_err(|e| {
            Error::new(Kind::Usage, format!("the parameters are not JSON: line {}, column {}", e.line(), e.column()))
        })?;
        Ok(CallAws { operation: format!("kms:{}", name(&self.operation)), input: Document::new(input) })
    }
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn operations_have_the_names_of_awss_command_line_too() {
        for (given, meant) in [
            ("create-key", "CreateKey"),
            ("CreateKey", "CreateKey"),
            ("generate-data-key-pair-without-plaintext", "GenerateDataKeyPairWithoutPlaintext"),
            ("re-encrypt", "ReEncrypt"),
            ("", ""),
        ] {
            assert_eq!(name(given), meant);
        }
    }
}

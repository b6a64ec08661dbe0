//! Drives coffer's AWS API with the AWS SDK for Rust: `coffer-aws-sdk ENDPOINT`, of `coffer serve --ephemeral`.

use aws_credential_types::Credentials;
use aws_sdk_kms::Client;
use aws_sdk_kms::config::{BehaviorVersion, Region, retry::RetryConfig};
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, KeySpec, KeyState, KeyUsageType, SigningAlgorithmSpec};
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Debug;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The code of an error that the service must answer with.
fn refused<T: Debug, E: ProvideErrorMetadata, R>(
    code: &str,
    answer: std::result::Result<T, SdkError<E, R>>,
) -> Result<()> {
    match answer {
        Err(err) if err.code() == Some(code) => Ok(()),
        Err(err) => Err(format!("expected {code}, got {:?}", err.code()).into()),
        Ok(answer) => Err(format!("expected {code}, got {answer:?}").into()),
    }
}

fn client(endpoint: &str, secret: &str) -> Client {
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .retry_config(RetryConfig::disabled())
        .credentials_provider(Credentials::from_keys("AKIAIOSFODNN7EXAMPLE", secret, None));
    Client::from_conf(config.build())
}

async fn drive(endpoint: &str) -> Result<()> {
    let kms = client(endpoint, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
    let made = kms.create_key().description("rust").send().await?.key_metadata.ok_or("no metadata")?;
    assert_eq!((made.key_state(), made.description()), (Some(&KeyState::Enabled), Some("rust")));
    let key = made.key_id();

    let (text, context) = (Blob::new("text"), ("tenant", "a"));
    let sealed =
        kms.encrypt().key_id(key).plaintext(text.clone()).encryption_context(context.0, context.1).send().await?;
    let blob = sealed.ciphertext_blob.ok_or("no ciphertext")?;
    let opened = kms.decrypt().ciphertext_blob(blob.clone()).encryption_context(context.0, context.1).send().await?;
    assert_eq!((opened.plaintext, opened.key_id), (Some(text.clone()), made.arn.clone()));
    refused("InvalidCiphertextException", kms.decrypt().ciphertext_blob(blob).send().await)?;

    let data = kms.generate_data_key().key_id(key).key_spec(DataKeySpec::Aes256).send().await?;
    let again = kms.decrypt().ciphertext_blob(data.ciphertext_blob.ok_or("no ciphertext")?).send().await?;
    assert_eq!(data.plaintext.as_ref().map(|p| p.as_ref().len()), Some(32));
    assert_eq!(again.plaintext, data.plaintext);

    let pair = kms.create_key().key_spec(KeySpec::EccNistP256).key_usage(KeyUsageType::SignVerify).send().await?;
    let pair = pair.key_metadata.ok_or("no metadata")?;
    let how = SigningAlgorithmSpec::EcdsaSha256;
    let signed = kms.sign().key_id(pair.key_id()).message(text.clone()).signing_algorithm(how.clone()).send().await?;
    let signature = signed.signature.ok_or("no signature")?;
    let check = |message: &'static str| {
        let asked = kms.verify().key_id(pair.key_id()).message(Blob::new(message));
        asked.signature(signature.clone()).signing_algorithm(how.clone()).send()
    };
    assert!(check("text").await?.signature_valid);
    refused("KMSInvalidSignatureException", check("other").await)?;

    let mut pages = kms.list_keys().into_paginator().page_size(1).send();
    let mut seen = BTreeSet::new();
    while let Some(page) = pages.next().await {
        for one in page?.keys() {
            assert!(seen.insert(one.key_id().map(str::to_owned)), "a key is listed twice");
        }
    }
    assert_eq!(seen, [key, pair.key_id()].map(|id| Some(id.to_owned())).into());

    kms.disable_key().key_id(key).send().await?;
    refused("DisabledException", kms.encrypt().key_id(key).plaintext(text).send().await)?;
    refused("NotFoundException", kms.describe_key().key_id("alias/none").send().await)?;
    refused("InvalidSignatureException", client(endpoint, "wrong").list_keys().send().await)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1).ok_or("usage: coffer-aws-sdk ENDPOINT")?;
    drive(&endpoint).await?;
    println!("the AWS SDK for Rust: ok");
    Ok(())
}

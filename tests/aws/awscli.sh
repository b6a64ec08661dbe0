#!/bin/bash
# The AWS CLI: what people type. Wants AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and ACCOUNT; works in the
# current directory.
set -euo pipefail

# same WHAT EXPECTED ACTUAL
same() {
    [ "$2" = "$3" ] || { echo "awscli.sh: $1: expected $2, got $3" >&2; exit 1; }
}

# refused CODE COMMAND...
refused() {
    local code=$1 said
    shift
    if said=$("$@" 2>&1); then
        echo "awscli.sh: expected $code from $*, got $said" >&2
        exit 1
    fi
    case $said in
        *"($code)"*) ;;
        *) echo "awscli.sh: expected $code from $*, got $said" >&2; exit 1 ;;
    esac
}

# kms COMMAND...: prints tabs and text.
kms() {
    aws kms --output text "$@"
}

same "the caller" "arn:aws:iam::$ACCOUNT:user/admin" "$(aws sts get-caller-identity --query Arn --output text)"

key=$(kms create-key --description cli --tags TagKey=team,TagValue=a --query KeyMetadata.KeyId)
kms create-alias --alias-name alias/cli --target-key-id "$key"
same "the alias" "$key" "$(kms describe-key --key-id alias/cli --query KeyMetadata.KeyId)"
same "the aliases" "alias/cli" "$(kms list-aliases --key-id "$key" --query 'Aliases[].AliasName')"
same "the tags" "team a" "$(kms list-resource-tags --key-id "$key" --query 'Tags[].[TagKey,TagValue]' | tr '\t' ' ')"
same "the policy's names" "default" "$(kms list-key-policies --key-id "$key" --query 'PolicyNames[]')"

head -c 3000 /dev/urandom >plain
kms encrypt --key-id alias/cli --plaintext fileb://plain --encryption-context tenant=a --query CiphertextBlob |
    base64 -d >sealed
kms decrypt --ciphertext-blob fileb://sealed --encryption-context tenant=a --query Plaintext | base64 -d >opened
cmp plain opened
if cmp -s plain sealed; then exit 1; fi
refused InvalidCiphertextException aws kms decrypt --ciphertext-blob fileb://sealed
kms re-encrypt --ciphertext-blob fileb://sealed --source-encryption-context tenant=a --destination-key-id "$key" \
    --query CiphertextBlob | base64 -d >moved
kms decrypt --ciphertext-blob fileb://moved --key-id "$key" --query Plaintext | base64 -d | cmp - plain

same "a data key" 44 "$(kms generate-data-key --key-id "$key" --key-spec AES_256 --query Plaintext | tr -d '\n' | wc -c)"
same "no data key" None "$(kms generate-data-key-without-plaintext --key-id "$key" --key-spec AES_256 --query Plaintext)"
same "random bytes" 24 "$(kms generate-random --number-of-bytes 16 --query Plaintext | tr -d '\n' | wc -c)"

# OpenSSL checks the signature.
pair=$(kms create-key --key-spec RSA_2048 --key-usage SIGN_VERIFY --query KeyMetadata.KeyId)
kms sign --key-id "$pair" --message fileb://plain --signing-algorithm RSASSA_PKCS1_V1_5_SHA_256 --query Signature |
    base64 -d >signature
kms get-public-key --key-id "$pair" --query PublicKey | base64 -d >public
openssl dgst -sha256 -verify public -keyform DER -signature signature plain >/dev/null
same "the signature" True "$(kms verify --key-id "$pair" --message fileb://plain --signature fileb://signature \
    --signing-algorithm RSASSA_PKCS1_V1_5_SHA_256 --query SignatureValid)"

hmac=$(kms create-key --key-spec HMAC_256 --key-usage GENERATE_VERIFY_MAC --query KeyMetadata.KeyId)
kms generate-mac --key-id "$hmac" --message fileb://plain --mac-algorithm HMAC_SHA_256 --query Mac | base64 -d >mac
same "the MAC" True "$(kms verify-mac --key-id "$hmac" --message fileb://plain --mac fileb://mac \
    --mac-algorithm HMAC_SHA_256 --query MacValid)"

grant=$(kms create-grant --key-id "$key" --grantee-principal "arn:aws:iam::$ACCOUNT:user/nobody" --operations Decrypt \
    --constraints 'EncryptionContextSubset={tenant=a}' --query GrantId)
same "the grant" "$grant" "$(kms list-grants --key-id "$key" --query 'Grants[].GrantId')"
kms revoke-grant --key-id "$key" --grant-id "$grant"
same "no grants" "" "$(kms list-grants --key-id "$key" --query 'Grants[].GrantId')"

kms enable-key-rotation --key-id "$key" --rotation-period-in-days 180
same "the rotation" 180 "$(kms get-key-rotation-status --key-id "$key" --query RotationPeriodInDays)"
kms rotate-key-on-demand --key-id "$key" >/dev/null
same "the rotations" ON_DEMAND "$(kms list-key-rotations --key-id "$key" --query 'Rotations[].RotationType')"
kms decrypt --ciphertext-blob fileb://moved --query Plaintext | base64 -d | cmp - plain

# The CLI pages by itself.
all=$(kms list-keys --query 'Keys[].KeyId' | tr '\t' '\n' | grep -c .)
paged=$(kms list-keys --page-size 1 --query 'Keys[].KeyId' | tr '\t' '\n' | grep -c .)
same "keys by pages of one" "$all" "$paged"

kms disable-key --key-id "$key"
refused DisabledException aws kms encrypt --key-id "$key" --plaintext fileb://plain
refused NotFoundException aws kms describe-key --key-id alias/none
refused ValidationException aws kms schedule-key-deletion --key-id "$key" --pending-window-in-days 31
same "the deletion" PendingDeletion \
    "$(kms schedule-key-deletion --key-id "$key" --pending-window-in-days 7 --query KeyState)"
AWS_SECRET_ACCESS_KEY=wrong refused InvalidSignatureException aws kms list-keys
echo ok

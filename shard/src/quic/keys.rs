//! The keys that belong to the endpoint rather than to a connection, and the clock that dates Retry tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::{aead, hkdf, hmac};
use quinn_proto::TimeSource;
use quinn_proto::crypto::{AeadKey, CryptoError, HandshakeTokenKey, HmacKey};

/// Signs stateless reset tokens.
pub(super) struct ResetKey(hmac::Key);

impl ResetKey {
    pub(super) fn new(secret: &[u8; 64]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, message: &[u8], signature: &mut [u8]) {
        signature.copy_from_slice(hmac::sign(&self.0, message).as_ref());
    }

    fn signature_len(&self) -> usize {
        hmac::HMAC_SHA256.digest_algorithm().output_len()
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        hmac::verify(&self.0, message, signature).map_err(|_| CryptoError)
    }
}

/// Derives a key of its own for every Retry token.
pub(super) struct TokenKey(hkdf::Prk);

impl TokenKey {
    pub(super) fn new(secret: &[u8; 64]) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, b"quelea retry token").extract(secret))
    }
}

impl HandshakeTokenKey for TokenKey {
    fn aead_from_hkdf(&self, nonce: &[u8]) -> Box<dyn AeadKey> {
        let info = [nonce];
        let key = self.0.expand(&info, &aead::AES_256_GCM).expect("32 bytes are within HKDF's limit");
        Box::new(OneTokenKey(aead::LessSafeKey::new(key.into())))
    }
}

/// The key of one token. It seals one message in its life, so a constant nonce is unique.
struct OneTokenKey(aead::LessSafeKey);

impl AeadKey for OneTokenKey {
    fn seal(&self, message: &mut Vec<u8>, additional: &[u8]) -> Result<(), CryptoError> {
        let nonce = aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN]);
        self.0.seal_in_place_append_tag(nonce, aead::Aad::from(additional), message).map_err(|_| CryptoError)
    }

    fn open<'a>(&self, sealed: &'a mut [u8], additional: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        let nonce = aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN]);
        self.0.open_in_place(nonce, aead::Aad::from(additional), sealed).map_err(|_| CryptoError)
    }
}

/// Dates Retry tokens by the shard's own time, counted in seconds from the first datagram.
///
/// A token returns to the shard that made it (its connection ID names it), so no other clock has to agree. A token
/// of a process that has ended may be taken for fresher than it is; it still proves the address it was sent to.
#[derive(Default)]
pub(super) struct TokenClock {
    base: Option<Instant>,
    seconds: Arc<AtomicU64>,
}

impl TokenClock {
    /// Sets the time. `Relaxed` is enough: reader and writer are the same shard.
    pub(super) fn set(&mut self, now: Instant) {
        let base = *self.base.get_or_insert(now);
        self.seconds.store(now.saturating_duration_since(base).as_secs(), Ordering::Relaxed);
    }

    /// What quinn-proto asks for the time.
    pub(super) fn source(&self) -> Arc<dyn TimeSource> {
        Arc::new(TokenTime(Arc::clone(&self.seconds)))
    }
}

struct TokenTime(Arc<AtomicU64>);

#[expect(clippy::disallowed_types, reason = "quinn-proto's trait counts in SystemTime; no clock is read")]
impl TimeSource for TokenTime {
    fn now(&self) -> std::time::SystemTime {
        std::time::UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

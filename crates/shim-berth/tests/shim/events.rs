//! Events arrive in order where somebody listens, and nobody waits for them where nobody does.

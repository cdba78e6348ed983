# file: crates/pod/src/holding.rs
# test: -p berth-pod
s/Self::Network => &\[Self::Namespaces\],/Self::Network => \&[],/

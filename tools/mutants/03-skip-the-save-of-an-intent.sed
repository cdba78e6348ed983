# file: crates/pod/src/machine.rs
# test: -p berth-pod
s/self\.queued\.push\(\(self\.generation, /self.queued.push((0, /

package seal

// Label says what a key, a hash or a signature is for. Every label of the
// product stands in the lists below, one list a package, and serves one purpose:
// one place outside tests makes something with it, and at most one place opens
// or verifies that. A test reads the sources and holds this.
type Label string

// Labels of crypto/seal.
const (
	LabelBlob Label = "kist/1/blob" // associated data of blobs
)

// Labels of crypto/keys.
const (
	LabelIdentity        Label = "kist/1/identity"     // identity id
	LabelDevice          Label = "kist/1/device"       // device id
	LabelSigIdentity     Label = "kist/1/sig/identity" // master key signs a statement
	LabelPassphraseKey   Label = "kist/1/kek-pw"       // stretched passphrase → keyfile key
	LabelKeyfile         Label = "kist/1/keyfile"      // seals the main section
	LabelKeyfileMaster   Label = "kist/1/keyfile-msk"  // seals the master section
	LabelWrap            Label = "kist/1/wrap"         // epoch secret for a member
	LabelEpochCommitment Label = "kist/1/es-commit"    // fixes an epoch secret
	LabelCacheKey        Label = "kist/1/key/cache"    // from the installation secret
	LabelJournalKey      Label = "kist/1/key/journal"  // from the installation secret
	LabelTrustKey        Label = "kist/1/key/trust"    // from the installation secret
)

// Labels of fs/log.
const (
	LabelGenesis    Label = "kist/1/genesis"     // vault id
	LabelMembers    Label = "kist/1/members"     // hash of the member state
	LabelCommitKey  Label = "kist/1/key/commit"  // from the epoch secret
	LabelCommit     Label = "kist/1/commit"      // seals a commit
	LabelSigCommit  Label = "kist/1/sig/commit"  // device key signs a commit
	LabelHistoryKey Label = "kist/1/key/history" // from the epoch secret
	LabelHistory    Label = "kist/1/history"     // seals the epoch secret before
	LabelTrust      Label = "kist/1/trust"       // seals a copy of the trust file
)

// Labels of fs/pack.
const (
	LabelFooter Label = "kist/1/footer" // seals a pack's footer
)

// Labels of fs.
const (
	LabelFooterKey Label = "kist/1/key/footer" // from the epoch secret
)

// Labels of fs/home.
const (
	LabelStateMark Label = "kist/1/state-mark" // hash of a machine and a place on it
)

// Labels of fs/journal.
const (
	LabelJournalSegment Label = "kist/1/journal-segment" // seals a segment's random key
)

// Labels of cache.
const (
	LabelCacheNameKey Label = "kist/1/key/cache-name" // names rows
	LabelCacheRow     Label = "kist/1/cache-row"      // seals a row's value
	LabelCacheFile    Label = "kist/1/cache-file"     // seals a block file's random key
)

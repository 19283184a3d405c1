package backend

import (
	"fmt"
	"net/url"
	"strings"
)

// The kinds of store that a Spec can name.
const (
	KindS3  = "s3"
	KindDir = "dir"
)

const maxPrefix = 256 // with MaxKey stays below S3's limit of 1024 bytes

// A Spec says where a store is, as the user writes it:
//
//	s3://bucket/prefix?endpoint=URL&region=R&profile=P&path_style=1
//	dir:PATH
//
// It never holds a credential: profile is a name in the user's AWS settings.
// Parse(spec.String()) gives the same Spec.
type Spec struct {
	Kind string // KindS3 or KindDir

	Path string // dir: as written, perhaps relative

	Bucket    string // s3
	Prefix    string // s3: without slashes at its ends, "" for none
	Endpoint  string // s3: http(s)://host[:port], "" for AWS
	Region    string // s3
	Profile   string // s3
	PathStyle bool   // s3: the bucket stands in the path, not in the host name
}

// Parse reads a Spec. It touches neither disk nor network.
func Parse(s string) (Spec, error) {
	if path, ok := strings.CutPrefix(s, "dir:"); ok {
		return parseDir(path)
	}
	if strings.HasPrefix(s, "s3://") {
		return parseS3(s)
	}
	return Spec{}, fmt.Errorf("%w: a store is written s3://bucket/prefix or dir:PATH", ErrInvalid)
}

func parseDir(path string) (Spec, error) {
	switch {
	case path == "":
		return Spec{}, fmt.Errorf("%w: dir: needs a path", ErrInvalid)
	case strings.HasPrefix(path, "//"):
		return Spec{}, fmt.Errorf("%w: write dir:/path, without further slashes", ErrInvalid)
	case path[0] == '~':
		return Spec{}, fmt.Errorf("%w: the shell does not expand ~ after dir: (write the path in full, or ./~ for a folder of that name)", ErrInvalid)
	case strings.ContainsRune(path, 0):
		return Spec{}, fmt.Errorf("%w: a path with a zero byte", ErrInvalid)
	}
	return Spec{Kind: KindDir, Path: path}, nil
}

func parseS3(s string) (Spec, error) {
	u, err := url.Parse(s)
	if err != nil { // the error quotes its input, which may hold a password
		return Spec{}, fmt.Errorf("%w: the store's address is not a URL", ErrInvalid)
	}
	if u.User != nil {
		return Spec{}, fmt.Errorf("%w: no credentials in the store's address; use a profile or the environment", ErrInvalid)
	}
	if u.Fragment != "" || strings.Contains(s, "#") {
		return Spec{}, fmt.Errorf("%w: the store's address has a fragment", ErrInvalid)
	}
	spec := Spec{Kind: KindS3, Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	if err := checkBucket(spec.Bucket); err != nil {
		return Spec{}, err
	}
	if spec.Prefix != "" {
		if len(spec.Prefix) > maxPrefix {
			return Spec{}, fmt.Errorf("%w: a prefix of more than %d bytes", ErrInvalid, maxPrefix)
		}
		if err := CheckKey(spec.Prefix); err != nil {
			return Spec{}, fmt.Errorf("the prefix: %w", err)
		}
	}
	return spec, spec.options(u.RawQuery)
}

func checkBucket(name string) error {
	if len(name) < 3 || len(name) > 63 {
		return fmt.Errorf("%w: a bucket's name has 3 to 63 characters", ErrInvalid)
	}
	for i := range len(name) {
		c := name[i]
		inner := i > 0 && i < len(name)-1 && strings.IndexByte(".-_", c) >= 0
		if !inner && !isAlnum(c) {
			return fmt.Errorf("%w: a bucket's name has letters, digits, dots and dashes", ErrInvalid)
		}
	}
	return nil
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func (s *Spec) options(raw string) error {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return fmt.Errorf("%w: the options after ? are malformed", ErrInvalid)
	}
	for key, values := range q {
		if len(values) != 1 || values[0] == "" {
			return fmt.Errorf("%w: each option of the store has one value", ErrInvalid)
		}
		v := values[0]
		switch key {
		case "endpoint":
			s.Endpoint, err = endpoint(v)
		case "region":
			s.Region, err = v, checkWord(v)
		case "profile":
			s.Profile, err = v, checkWord(v)
		case "path_style":
			s.PathStyle = true
			if v != "1" {
				err = fmt.Errorf("%w: path_style is 1 or absent", ErrInvalid)
			}
		default: // the key is not repeated: people paste secrets here
			err = fmt.Errorf("%w: an option other than endpoint, region, profile, path_style (credentials come from a profile or the environment)", ErrInvalid)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func endpoint(v string) (string, error) {
	u, err := url.Parse(v)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		(u.Scheme != "http" && u.Scheme != "https") || (u.Path != "" && u.Path != "/") {
		return "", fmt.Errorf("%w: an endpoint is http(s)://host[:port] and nothing else", ErrInvalid)
	}
	return u.Scheme + "://" + u.Host, nil
}

func checkWord(v string) error {
	for i := range len(v) {
		if !isAlnum(v[i]) && strings.IndexByte("._-@", v[i]) < 0 {
			return fmt.Errorf("%w: a region or profile with a strange character", ErrInvalid)
		}
	}
	return nil
}

// String writes the Spec in its one canonical form.
func (s Spec) String() string {
	if s.Kind == KindDir {
		return "dir:" + s.Path
	}
	u := url.URL{Scheme: "s3", Host: s.Bucket}
	if s.Prefix != "" {
		u.Path = "/" + s.Prefix
	}
	q := url.Values{}
	set := func(key, v string) {
		if v != "" {
			q.Set(key, v)
		}
	}
	set("endpoint", s.Endpoint)
	set("region", s.Region)
	set("profile", s.Profile)
	if s.PathStyle {
		q.Set("path_style", "1")
	}
	u.RawQuery = q.Encode()
	return u.String()
}

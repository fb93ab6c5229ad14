"""From other projects' model folders to manifests of ours."""

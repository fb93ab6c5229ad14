{{/* The release's name, short enough for what KubeRay appends to it. */}}
{{- define "atelier.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Not app.kubernetes.io/name, which on pods is KubeRay's to set. */}}
{{- define "atelier.selector" -}}
app.kubernetes.io/part-of: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "atelier.labels" -}}
{{ include "atelier.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "atelier.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* The Ray Serve config, with what a cluster of several nodes needs. */}}
{{- define "atelier.serveConfig" -}}
{{- $gateway := merge (dict "host" "0.0.0.0" "port" 8000) .Values.gateway -}}
{{- $args := dict "gateway" $gateway "gateway_replicas" .Values.gatewayReplicas "gateway_num_cpus" .Values.gatewayCpus "pools" .Values.pools "metrics_folder" "/tmp/atelier/metrics" -}}
{{- if .Values.store.existingClaim -}}
{{- $_ := set $args "store" "/models" -}}
{{- end -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8000
applications:
  - name: atelier
    route_prefix: /
    import_path: services.serving.app:build
    args:
      {{- toYaml $args | nindent 6 }}
{{- end -}}

{{/* One pod template for all nodes. Takes the root, the container's name, resources and so on. */}}
{{- define "atelier.pod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "atelier.labels" $root | nindent 4 }}
spec:
  {{- if not .head }}
  automountServiceAccountToken: false
  {{- end }}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  terminationGracePeriodSeconds: {{ $root.Values.terminationGracePeriodSeconds }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile:
      type: RuntimeDefault
  {{- with .group.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .container }}
      image: {{ include "atelier.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      # What `ray start` alone leaves out; it runs KubeRay's own command in the end.
      command: [tini, --, python, -m, services.serving.cluster_node]
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      ports:
        {{- if .head }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        {{- else }}
        - {name: serve, containerPort: 8000}
        {{- end }}
        - {name: atelier-metrics, containerPort: 9464}
      env:
        {{- if $root.Values.apiKeys.existingSecret }}
        - name: ATELIER_API_KEYS
          valueFrom:
            secretKeyRef:
              name: {{ $root.Values.apiKeys.existingSecret }}
              key: {{ $root.Values.apiKeys.key }}
        {{- end }}
        {{- if and $root.Values.jobs.databaseSecret $root.Values.jobs.artefactsUrl }}
        - name: ATELIER_JOBS__DATABASE_URL
          valueFrom:
            secretKeyRef:
              name: {{ $root.Values.jobs.databaseSecret }}
              key: {{ $root.Values.jobs.databaseKey }}
        - name: ATELIER_JOBS__ARTEFACTS_URL
          value: {{ $root.Values.jobs.artefactsUrl | quote }}
        {{- else }}
        - name: ATELIER_JOBS__ENABLED
          value: "false"
        {{- end }}
        {{- if $root.Values.provenance.existingSecret }}
        - name: ATELIER_PROVENANCE__CERTIFICATE_FILE
          value: /etc/atelier/provenance/tls.crt
        - name: ATELIER_PROVENANCE__KEY_FILE
          value: /etc/atelier/provenance/tls.key
        {{- end }}
        {{- with $root.Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $root.Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      resources:
        {{- toYaml .group.resources | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: state, mountPath: /var/lib/atelier}
        {{- if $root.Values.provenance.existingSecret }}
        - {name: provenance, mountPath: /etc/atelier/provenance, readOnly: true}
        {{- end }}
        {{- if $root.Values.store.existingClaim }}
        - {name: models, mountPath: /models, readOnly: {{ $root.Values.store.readOnly }}}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    - name: state
      emptyDir: {}
    {{- if $root.Values.provenance.existingSecret }}
    - name: provenance
      secret:
        secretName: {{ $root.Values.provenance.existingSecret }}
        defaultMode: 0440
    {{- end }}
    {{- if $root.Values.store.existingClaim }}
    - name: models
      persistentVolumeClaim:
        claimName: {{ $root.Values.store.existingClaim }}
        readOnly: {{ $root.Values.store.readOnly }}
    {{- end }}
{{- end -}}

{{/* Names. Everything is RELEASE-clamor-COMPONENT, a worker also -MODEL. */}}
{{- define "clamor.name" -}}
{{- $base := contains "clamor" .Release.Name | ternary .Release.Name (printf "%s-clamor" .Release.Name) -}}
{{- $base | trunc 36 | trimSuffix "-" -}}
{{- end -}}

{{/* A model's values: its own over workerDefaults. Takes root and model; gives YAML. */}}
{{- define "clamor.model" -}}
{{- mergeOverwrite (deepCopy .root.Values.workerDefaults) (deepCopy .model) | toYaml -}}
{{- end -}}

{{/* What selects a pod. Takes root, component and, of a worker, model (its name). */}}
{{- define "clamor.selector" -}}
app.kubernetes.io/name: clamor
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .model }}
clamor/model: {{ . }}
{{- end }}
{{- end -}}

{{/* What selects the pods of which not all should be on one machine, or be evicted, at a time: those of a selector, but
     store and follower together. Arguments as above. */}}
{{- define "clamor.kin" -}}
{{- if hasPrefix "retrieval" .component -}}
matchLabels: {{ pick (include "clamor.selector" . | fromYaml) "app.kubernetes.io/name" "app.kubernetes.io/instance" | toJson }}
matchExpressions: [{key: app.kubernetes.io/component, operator: In, values: [retrieval, retrieval-follower]}]
{{- else -}}
matchLabels: {{- include "clamor.selector" . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "clamor.labels" -}}
{{ include "clamor.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Takes root and, optionally, device. */}}
{{- define "clamor.image" -}}
{{- $image := .root.Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ eq (.device | default "cpu") "cuda" | ternary $image.cudaSuffix "" }}
{{- end -}}
{{- end -}}

{{/* The restricted Pod Security standard, for pod and container. */}}
{{- define "clamor.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- define "clamor.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What all pods share. Takes root, component, model (optional), values (grace, settle, pod). After settle come grace
     and ten seconds to write down what must be kept; only then the kernel ends it. */}}
{{- define "clamor.podCommon" -}}
serviceAccountName: {{ include "clamor.name" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add .values.grace .values.settle 10 }}
securityContext: {{- include "clamor.podSecurity" . | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .values.pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.pod.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.pod.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.pod.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .root.Values.topologySpread.enabled }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ .root.Values.topologySpread.key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      {{- include "clamor.kin" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Flags, ports, probes and the end of a server. Takes root, component, values, port (of gRPC; HTTP is the next one),
     loading (seconds) and, optionally, openai (a port).
     Probes of Kubernetes know no TLS: with it they ask a plaintext port that has nothing but health.
     Liveness asks whether the process answers, not whether it is ready: a server that drains, or a gateway without workers,
     must not be restarted for it. */}}
{{- define "clamor.serverArgs" -}}
- --listen=:{{ .port }}
- --http=:{{ add .port 1 }}
- --grace={{ .values.grace }}
{{- if .root.Values.tls.enabled }}
- --health=:{{ add .port 9 }}
- --tls-cert=/etc/clamor/tls/tls.crt
- --tls-key=/etc/clamor/tls/tls.key
- --tls-ca=/etc/clamor/tls/ca.crt
{{- end }}
{{- with .root.Values.tracing.endpoint }}
- --otlp-endpoint={{ . }}
{{- if $.root.Values.tracing.tls }}
- --otlp-tls
{{- end }}
{{- end }}
{{- end -}}
{{- define "clamor.server" -}}
{{- $probed := .root.Values.tls.enabled | ternary (add .port 9) .port -}}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext: {{- include "clamor.containerSecurity" . | nindent 2 }}
ports:
  - {name: grpc, containerPort: {{ .port }}}
  - {name: http, containerPort: {{ add .port 1 }}}
  {{- with .openai }}
  - {name: openai, containerPort: {{ . }}}
  {{- end }}
  {{- if .root.Values.tls.enabled }}
  - {name: health, containerPort: {{ $probed }}}
  {{- end }}
startupProbe:
  {{- if eq .component "gateway" }}
  httpGet: {path: /healthz, port: http}
  {{- else }}
  grpc: {port: {{ $probed }}}
  {{- end }}
  periodSeconds: 2
  failureThreshold: {{ div (add .loading 1) 2 }}
readinessProbe:
  grpc: {port: {{ $probed }}}
  periodSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
lifecycle:
  preStop:
    sleep: {seconds: {{ .values.settle }}}
{{- end -}}

{{- define "clamor.tlsVolume" -}}
{{- if .Values.tls.enabled }}
- name: tls
  secret: {secretName: {{ .Values.tls.existingSecret | default (printf "%s-tls" (include "clamor.name" .)) }}, defaultMode: 0440}
{{- end }}
{{- end -}}
{{- define "clamor.tlsMount" -}}
{{- if .Values.tls.enabled }}
- {name: tls, mountPath: /etc/clamor/tls, readOnly: true}
{{- end }}
{{- end -}}
{{/* For the command `clamor`, which calls retrieval as a worker would. */}}
{{- define "clamor.tlsClientArgs" -}}
{{- if .Values.tls.enabled }}
- --tls-ca=/etc/clamor/tls/ca.crt
- --tls-cert=/etc/clamor/tls/tls.crt
- --tls-key=/etc/clamor/tls/tls.key
{{- end }}
{{- end -}}

{{/* HOST:PORT by full name, which is what certificates are made out to. Takes root, service, port. */}}
{{- define "clamor.address" -}}
{{ .service }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}:{{ .port }}
{{- end -}}

{{/* All workers, each model's by the headless Service that lists its pods. */}}
{{- define "clamor.workerAddresses" -}}
{{- $addresses := list -}}
{{- range .Values.models -}}
{{- $service := printf "%s-worker-%s" (include "clamor.name" $) .name -}}
{{- $addresses = append $addresses (printf "dns:///%s" (include "clamor.address" (dict "root" $ "service" $service "port" 7710))) -}}
{{- end -}}
{{ join "," $addresses }}
{{- end -}}

{{/* Where a model is, how it gets there, and the volume it lies on. All take root and model (merged). */}}
{{- define "clamor.modelPath" -}}
{{- if .model.source.path }}{{ .model.source.path }}
{{- else if .model.source.claim }}{{ clean (printf "/models/%s" (.model.source.claim.path | default "")) }}
{{- else }}/models/{{ .model.name }}
{{- end -}}
{{- end -}}
{{- define "clamor.modelMount" -}}
{{- if not .model.source.path }}
- {name: model, mountPath: /models, readOnly: true}
{{- end }}
{{- end -}}
{{- define "clamor.modelVolume" -}}
{{- if .model.source.claim }}
- name: model
  persistentVolumeClaim: {claimName: {{ .model.source.claim.name }}, readOnly: true}
{{- else if not .model.source.path }}
- name: model
  emptyDir: {}
{{- end }}
{{- end -}}
{{/* A copy is whole or not there: it is made beside its place and renamed. */}}
{{- define "clamor.modelInit" -}}
{{- $source := .model.source -}}
{{- if or $source.image $source.archive }}
- name: model
  image: {{ $source.image | default .root.Values.fetcher.image }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  securityContext: {{- include "clamor.containerSecurity" . | nindent 4 }}
  resources: {{- toYaml .root.Values.fetcher.resources | nindent 4 }}
  volumeMounts: [{name: model, mountPath: /models}]
  command: [sh, -euc]
  args:
    - |
      rm -rf /models/partial && mkdir /models/partial && cd /models/partial
      {{- if $source.image }}
      cp -R /model/. .
      {{- else }}
      wget -q -O ../archive {{ $source.archive.uri | squote }}
      echo {{ printf "%s  ../archive" $source.archive.sha256 | squote }} | sha256sum -c -
      tar -xf ../archive && rm ../archive
      {{- end }}
      mv /models/partial /models/{{ .model.name }}
{{- end }}
{{- end -}}

{{/* One of volumeClaimTemplates. Takes name and volume (size, storageClass). */}}
{{- define "clamor.volumeClaim" -}}
- metadata:
    name: {{ .name }}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .volume.storageClass }}
    storageClassName: {{ . }}
    {{- end }}
    resources:
      requests: {storage: {{ .volume.size }}}
{{- end -}}

{{/* Of servers that none but our own may call: they ask for a certificate of the same authority. */}}
{{- define "clamor.clientCa" -}}
{{- if .Values.tls.enabled }}
- --tls-client-ca=/etc/clamor/tls/ca.crt
{{- end }}
{{- end -}}

{{/* The components that are stores, as a JSON array: first the one that takes in documents, then the one that follows it. */}}
{{- define "clamor.stores" -}}
{{- $follower := .Values.retrieval.follower -}}
{{- if not .Values.retrieval.enabled -}}[]
{{- else if not $follower.enabled -}}["retrieval"]
{{- else if $follower.leads -}}["retrieval-follower","retrieval"]
{{- else -}}["retrieval","retrieval-follower"]
{{- end -}}
{{- end -}}

{{/* The one that takes in documents: its component, its name (pod and volume have a -0 behind it), its address. */}}
{{- define "clamor.store" -}}
{{ include "clamor.stores" . | fromJsonArray | first }}
{{- end -}}
{{- define "clamor.storeName" -}}
{{ include "clamor.name" . }}-{{ include "clamor.store" . }}
{{- end -}}
{{- define "clamor.storeAddress" -}}
{{ include "clamor.address" (dict "root" . "service" (include "clamor.storeName" .) "port" 7720) }}
{{- end -}}
{{/* A worker's --retrieval: it asks the follower where the store is slow or gone. */}}
{{- define "clamor.storeAddresses" -}}
{{- $addresses := list -}}
{{- range include "clamor.stores" . | fromJsonArray -}}
{{- $service := printf "%s-%s" (include "clamor.name" $) . -}}
{{- $addresses = append $addresses (include "clamor.address" (dict "root" $ "service" $service "port" 7720)) -}}
{{- end -}}
{{ join "|" $addresses }}
{{- end -}}

{{/* A worker's, with its GPUs: what is asked for is also the limit. Takes a merged model. */}}
{{- define "clamor.workerResources" -}}
{{- $resources := deepCopy .resources -}}
{{- if eq .device "cuda" -}}
{{- $gpus := dict "nvidia.com/gpu" .gpus -}}
{{- $_ := set $resources "limits" (merge (deepCopy $gpus) ($resources.limits | default dict)) -}}
{{- $_ := set $resources "requests" (merge (deepCopy $gpus) ($resources.requests | default dict)) -}}
{{- end -}}
{{ toYaml $resources }}
{{- end -}}

{{/* Up at once, by half at most every minute; down by one, after the calm. Takes a model's autoscaling. */}}
{{- define "clamor.scaleBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies: [{type: Percent, value: 50, periodSeconds: 60}, {type: Pods, value: 2, periodSeconds: 60}]
scaleDown:
  stabilizationWindowSeconds: {{ .calm }}
  policies: [{type: Pods, value: 1, periodSeconds: 120}]
{{- end -}}

{{/* As clamor.selector, in one line. */}}
{{- define "clamor.peer" -}}
{{ include "clamor.selector" . | fromYaml | toJson }}
{{- end -}}

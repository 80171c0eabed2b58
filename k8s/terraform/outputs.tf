locals {
  # What k8s/overlays/aks reads: a line for each key of its values/azure.env, and no other.
  overlay = {
    CERTIFICATE_URI      = "${azurerm_key_vault.secrets.vault_uri}certificates/${var.certificate}"
    CLUSTER_ADMINS       = var.cluster_admin_groups[0]
    ENGINE_IMAGES        = "${azurerm_container_registry.images.login_server}/{tenant}/"
    GATEWAY_CLIENT_ID    = azurerm_user_assigned_identity.gateway.client_id
    HOST                 = var.host
    LEDGER_CIDR          = local.subnets.ledger
    OBJECTS_CIDR         = local.subnets.endpoints
    OBJECTS_URL          = "az://${azurerm_storage_container.objects.name}"
    PUBLIC_URL           = "https://${var.host}"
    STORAGE_ACCOUNT_NAME = azurerm_storage_account.objects.name
  }
  placements = {
    for name, pool in var.tenant_pools : name => {
      runtime_class = pool.isolated ? "kata-vm-isolation" : null
      node_selector = { "enginehouse.dev/pool" = name }
      tolerations = concat(
        [{ key = "enginehouse.dev/tenants", operator = "Exists" }],
        pool.gpu ? [{ key = "sku", operator = "Exists" }] : [],
        pool.spot ? [{ key = "kubernetes.azure.com/scalesetpriority", operator = "Exists" }] : [],
      )
    }
  }
}

output "overlay" {
  value       = join("", [for key, value in local.overlay : "${key}=${value}\n"])
  description = "Content of k8s/overlays/aks/values/azure.env."
}

output "cluster_settings" {
  value       = { for name, placement in local.placements : name => yamlencode({ objects_cidrs = [local.subnets.endpoints], placement = placement }) }
  description = "What the registry, and `enginehouse engines render --cluster`, are told of the cluster, for a tenant whose engines run in the pool of this name."
}

output "resource_group" {
  value       = azurerm_resource_group.enginehouse.name
  description = "Resource group of everything."
}

output "cluster" {
  value       = azurerm_kubernetes_cluster.enginehouse.name
  description = "Name of the cluster, for az aks get-credentials."
}

output "registry" {
  value       = azurerm_container_registry.images.login_server
  description = "Host of the image registry."
}

output "vault" {
  value       = azurerm_key_vault.secrets.name
  description = "Name of the key vault. Its secret ledger-url is for `enginehouse cluster secrets --ledger-url-file`."
}

output "outbound_address" {
  value       = azurerm_public_ip.outbound.ip_address
  description = "Address that webhooks and pulled images come from."
}

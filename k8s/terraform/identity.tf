# The gateway's pods get tokens of Azure for this identity, by their ServiceAccount: no key of Azure is in the cluster.
resource "azurerm_user_assigned_identity" "gateway" {
  name                = "${var.name}-gateway"
  resource_group_name = azurerm_resource_group.enginehouse.name
  location            = azurerm_resource_group.enginehouse.location
  tags                = var.tags
}

resource "azurerm_federated_identity_credential" "gateway" {
  name                      = "enginehouse-gateway"
  user_assigned_identity_id = azurerm_user_assigned_identity.gateway.id
  issuer                    = azurerm_kubernetes_cluster.enginehouse.oidc_issuer_url
  subject                   = "system:serviceaccount:enginehouse:gateway"
  audience                  = ["api://AzureADTokenExchange"]
}

locals {
  gateway_roles = {
    objects = { scope = azurerm_storage_container.objects.id, role = "Storage Blob Data Contributor" }
    # URLs are signed by a key that Azure gives for this identity, for seven days at most.
    signatures = { scope = azurerm_storage_account.objects.id, role = "Storage Blob Delegator" }
    # For a SecretProviderClass, where the ledger's URL is to come from the vault itself.
    secrets = { scope = azurerm_key_vault.secrets.id, role = "Key Vault Secrets User" }
  }
}

resource "azurerm_role_assignment" "gateway" {
  for_each             = local.gateway_roles
  scope                = each.value.scope
  role_definition_name = each.value.role
  principal_id         = azurerm_user_assigned_identity.gateway.principal_id
  principal_type       = "ServicePrincipal"
}

# The ingress reads the API's certificate from the vault.
resource "azurerm_role_assignment" "ingress_certificate" {
  scope                = azurerm_key_vault.secrets.id
  role_definition_name = "Key Vault Certificate User"
  principal_id         = azurerm_kubernetes_cluster.enginehouse.web_app_routing[0].web_app_routing_identity[0].object_id
}

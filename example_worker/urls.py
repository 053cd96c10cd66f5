"""The URLs of the site."""

from django.contrib import admin
from django.urls import include, path

from example_worker import views

urlpatterns = [
    path("", views.shop, name="shop"),
    path("state/", views.state, name="state"),
    path("orders/", views.place_orders, name="orders"),
    path("service/", views.switch_service, name="service"),
    path("quote/", views.quote, name="quote"),
    path("quote/plain/", views.quote_plain, name="quote-plain"),
    path("api/orders/", views.api_orders, name="api-orders"),
    path("resilience/", include("ratelimit_core.django.urls")),
    path("admin/", admin.site.urls),
]
